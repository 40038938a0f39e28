"""Checks that SAELens and sparsify load what `granule export` writes and compute the same as
granule's server.

    make check-peers

Each fixture of Tests/InterchangeTests/Fixtures that can be served is imported, published, exported,
and encoded by both sides on the fixture's own activations. Exits with 1 if codes or reconstructions
differ by more than 2e-5 of the largest value, or if the active latents differ.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from granule_program import GRANULE, ROOT
from sparsify_library import import_sparsify

FIXTURES = ROOT / "Tests" / "InterchangeTests" / "Fixtures"
TOLERANCE = 2e-5
SOURCES = [
    "sae_lens_tiny/standard_bdec_in",
    "sae_lens_tiny/standard_nobdec_in",
    "sae_lens_tiny/topk_bdec_in",
    "sae_lens_tiny/topk_nobdec_in",
    "sae_lens_tiny/topk_rescale",
    "sae_lens_tiny/topk_layer_norm",
    "sae_lens_tiny/topk_few_positive",
    "sae_lens_tiny/jumprelu_bdec_in",
    "sae_lens_tiny/jumprelu_nobdec_in",
    "sae_lens_tiny/jumprelu_edges",
    "sae_lens_tiny/gated",
    "sae_lens_tiny/gated_nobdec_in",
    "sae_lens_tiny/batchtopk_training",
    "sae_lens_tiny/norm_layer_norm",
    "sae_lens_tiny/norm_constant_norm_rescale",
    "sae_lens_tiny/norm_eaoi_folded",
    "sae_lens_tiny/legacy_v5_topk",
    "sae_lens_tiny/stored_bf16_cfg_f32",
    "gemma_scope",
    "gemma_scope_2",
    "sparsify_tiny/expansion_only",
    "sparsify_tiny/few_positive",
    "dictionary_learning_tiny/matryoshka",
    "dictionary_learning_tiny/standard",
    "dictionary_learning_tiny/topk",
    "openai/topk.pt",
    "openai/relu/relu.pt",
]
# Folders of what a fixture must compute, if that is not its own.
OUTPUTS = {"openai/topk.pt": "openai", "openai/relu/relu.pt": "openai/relu"}

Array = npt.NDArray[np.float32]


def granule(*arguments: str) -> Any:
    """What the command prints as JSON."""
    result = subprocess.run([GRANULE, *arguments, "--json"], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"granule {' '.join(arguments)}: {result.stderr}")
    return json.loads(result.stdout) if result.stdout.strip() else None


def dense(path: str, width: int) -> Array:
    """Sparse codes as a matrix, [tokens, width]."""
    file = load_file(path)
    offsets = file["row_offsets"].astype(np.int64)
    codes = np.zeros((len(offsets) - 1, width), dtype=np.float32)
    tokens = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    codes[tokens, file["indices"]] = file["values"]
    return codes


def sae_lens(folder: str, x: Array) -> tuple[Array, Array]:
    """SAELens's codes and reconstructions."""
    import torch
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device="cpu")
    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(x))
        return codes.numpy(), sae.decode(codes).numpy()


def sparsify(folder: str, x: Array) -> tuple[Array, Array]:
    """sparsify's codes and reconstructions."""
    import torch

    coder = import_sparsify().SparseCoder.load_from_disk(folder)
    with torch.no_grad():
        out = coder.encode(torch.from_numpy(x))
        codes = torch.zeros(len(x), coder.num_latents).scatter_(1, out.top_indices, out.top_acts)
        return codes.numpy(), coder.decode(out.top_acts, out.top_indices).detach().numpy()


def relative_error(got: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest expected value; NaN if a value is NaN."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def same_active(got: Array, expected: Array) -> bool:
    return bool(((got != 0) == (expected != 0)).all())


def decoded(folder: str, common: list[str], codes: str) -> Array:
    """What granule's server reconstructs from the codes."""
    path = f"{folder}/decoded.safetensors"
    subprocess.run(
        [GRANULE, "decode", *common, "--codes", codes, "--out", path],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    reconstructions: Array = load_file(path)["activations"]
    return reconstructions


def check(folder: str, server: str, source: str) -> bool:
    """Whether every library that can load the fixture computes the same."""
    name = source.replace("/", ".")
    imported = f"{folder}/{name}"
    granule("import", str(FIXTURES / source), "--out", imported)
    width = granule("inspect", imported)["latents"]
    granule("publish", imported, "--repository", f"{folder}/models", "--name", name)
    granule("load", name, "--admin", f"unix:{folder}/admin")
    x = load_file(FIXTURES / OUTPUTS.get(source, source) / "expected.safetensors")["x"]
    x = x.astype(np.float32).reshape(len(x), -1)
    np.save(f"{folder}/x.npy", x)
    common = ["--server", server, "--model", name]
    encoded = f"{folder}/codes.safetensors"
    granule(
        "encode",
        *common,
        "--activations",
        f"{folder}/x.npy",
        "--granularities",
        str(width),
        "--out",
        encoded,
    )
    codes = dense(encoded, width)
    config = json.loads(Path(imported, "cfg.json").read_text())
    # Codes alone do not say what normalised inputs are reconstructed to.
    reconstructions = (
        decoded(folder, common, encoded) if config["normalize_activations"] == "none" else None
    )
    peers: dict[str, Callable[[str, Array], tuple[Array, Array]]] = {"saelens": sae_lens}
    if config["architecture"] == "topk" and reconstructions is not None:
        peers["sparsify"] = sparsify
    fine = True
    for peer, compute in peers.items():
        exported = f"{folder}/{name}.{peer}"
        granule("export", imported, "--to", peer, "--out", exported)
        peer_codes, peer_reconstructions = compute(exported, x)
        code_error = relative_error(codes, peer_codes)
        error = (
            None
            if reconstructions is None
            else relative_error(reconstructions, peer_reconstructions)
        )
        same = same_active(codes, peer_codes)
        ok = same and code_error <= TOLERANCE and (error is None or error <= TOLERANCE)
        fine = fine and ok
        print(
            f"{source:42} {peer:9} {code_error:8.1e} {'—' if error is None else f'{error:.1e}':>8} "
            f"{'same' if same else 'DIFFERS':8}{'' if ok else 'FAILED'}"
        )
    return fine


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="granule-peers-") as folder:
        os.mkdir(f"{folder}/models")
        listen = f"unix:{folder}/socket"
        server = subprocess.Popen(
            [
                GRANULE,
                "serve",
                "--repository",
                f"{folder}/models",
                "--listen",
                listen,
                "--admin-listen",
                f"unix:{folder}/admin",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        try:
            server.stdout.readline()
            print(f"{'fixture':42} {'peer':9} {'codes':>8} {'x̂':>8} active")
            results = [check(folder, listen, source) for source in SOURCES]
        finally:
            server.terminate()
            server.wait()
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
