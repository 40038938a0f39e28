"""Has SAELens and sparsify load what `granule export` writes, and compares what they compute with
what granule's server does.

    make check-peers

Each fixture of Tests/InterchangeTests/Fixtures that can be served is imported, published, exported
and encoded by both sides on the fixture's own activations. Exit status 1 where codes or
reconstructions differ by more than 2e-5 of the largest value, or the active latents differ.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file

GRANULE = ".build/release/granule"
FIXTURES = "Tests/InterchangeTests/Fixtures"
TOLERANCE = 2e-5
SOURCES = {
    "sae_lens_tiny/" + name: None
    for name in (
        "standard_bdec_in standard_nobdec_in topk_bdec_in topk_nobdec_in topk_rescale "
        "topk_layer_norm topk_few_positive jumprelu_bdec_in jumprelu_nobdec_in jumprelu_edges gated "
        "gated_nobdec_in batchtopk_training norm_layer_norm norm_constant_norm_rescale "
        "norm_eaoi_folded legacy_v5_topk stored_bf16_cfg_f32"
    ).split()
} | {
    "gemma_scope": None,
    "gemma_scope_2": None,
    "sparsify_tiny/expansion_only": None,
    "sparsify_tiny/few_positive": None,
    "dictionary_learning_tiny/matryoshka": None,
    "dictionary_learning_tiny/standard": None,
    "dictionary_learning_tiny/topk": None,
    "openai/topk.pt": "openai",
    "openai/relu/relu.pt": "openai/relu",
}


def granule(*arguments):
    result = subprocess.run([GRANULE, *arguments, "--json"], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"granule {' '.join(arguments)}: {result.stderr}")
    return json.loads(result.stdout) if result.stdout.strip() else None


def dense(path, width):
    file = load_file(path)
    codes = np.zeros((len(file["row_offsets"]) - 1, width), dtype=np.float32)
    for token, (start, end) in enumerate(zip(file["row_offsets"], file["row_offsets"][1:])):
        codes[token, file["indices"][start:end]] = file["values"][start:end]
    return codes


def sae_lens(folder, x):
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device="cpu")
    with torch.no_grad():
        codes = sae.encode(x)
        return codes.numpy(), sae.decode(codes).numpy()


def sparsify(folder, x):
    from sparsify import SparseCoder

    coder = SparseCoder.load_from_disk(folder)
    with torch.no_grad():
        out = coder.encode(x)
        codes = torch.zeros(len(x), coder.num_latents).scatter_(1, out.top_indices, out.top_acts)
        return codes.numpy(), coder.decode(out.top_acts, out.top_indices).detach().numpy()


def compare(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def check(folder, server, source, outputs):
    name = source.replace("/", ".")
    path = f"{FIXTURES}/{source}"
    imported = f"{folder}/{name}"
    granule("import", path, "--out", imported)
    width = granule("inspect", imported)["latents"]
    granule("publish", imported, "--repository", f"{folder}/models", "--name", name)
    granule("load", name, "--admin", f"unix:{folder}/admin")
    x = load_file(f"{FIXTURES}/{outputs or source}/expected.safetensors")["x"]
    x = x.astype(np.float32).reshape(len(x), -1)
    np.save(f"{folder}/x.npy", x)
    common = ["--server", server, "--model", name]
    encoded = f"{folder}/codes.safetensors"
    granule(
        "encode", *common, "--activations", f"{folder}/x.npy", "--granularities", str(width),
        "--out", encoded,
    )
    codes = dense(encoded, width)
    with open(f"{imported}/cfg.json") as file:
        config = json.load(file)
    # Codes alone do not say what normalised inputs are reconstructed to.
    is_raw = config["normalize_activations"] == "none"
    if is_raw:
        decoded = f"{folder}/decoded.safetensors"
        subprocess.run(
            [GRANULE, "decode", *common, "--codes", encoded, "--out", decoded], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        reconstructions = load_file(decoded)["activations"]
    fine = True
    peers = {"saelens": sae_lens}
    if config["architecture"] == "topk" and is_raw:
        peers["sparsify"] = sparsify
    for peer, compute in peers.items():
        exported = f"{folder}/{name}.{peer}"
        granule("export", imported, "--to", peer, "--out", exported)
        peer_codes, peer_reconstructions = compute(exported, torch.from_numpy(x))
        code_error = compare(codes, peer_codes)
        error = compare(reconstructions, peer_reconstructions) if is_raw else 0.0
        same = bool(((codes != 0) == (peer_codes != 0)).all())
        ok = same and max(code_error, error) <= TOLERANCE
        fine = fine and ok
        print(
            f"{source:42} {peer:9} {code_error:8.1e} {error if is_raw else '—':{'8.1e' if is_raw else '>8'}} "
            f"{'same' if same else 'DIFFERS':8}{'' if ok else 'FAILED'}"
        )
    return fine


def main():
    with tempfile.TemporaryDirectory(prefix="granule-peers-") as folder:
        os.mkdir(f"{folder}/models")
        listen = f"unix:{folder}/socket"
        server = subprocess.Popen(
            [GRANULE, "serve", "--repository", f"{folder}/models", "--listen", listen]
            + ["--admin-listen", f"unix:{folder}/admin"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        try:
            server.stdout.readline()
            print(f"{'fixture':42} {'peer':9} {'codes':>8} {'x̂':>8} active")
            results = [check(folder, listen, *item) for item in SOURCES.items()]
        finally:
            server.terminate()
            server.wait()
    sys.exit(0 if all(results) else 1)


main()
