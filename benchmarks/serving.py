#!/usr/bin/env python3
"""Granule's server against a FastAPI server around SAELens' `SAE.encode`, in one run.

Both serve one random TopK dictionary to the same clients. Each client is a connection of this
process that sends its next request once an answer has come, over loopback, with float32 activations
as they lie in memory. FastAPI also answers with the bytes of row offsets, indices and values. It
runs under uvicorn with uvloop and httptools, and SAELens under torch.inference_mode. Of the
settings tried (processes × torch's threads) the one with the most tokens a second counts, and is
printed. Each side runs alone.

With --swap the dictionary is swapped once a second, or as soon as the last swap is done if that
takes longer, at half of the tokens a second that the server can answer, and latencies are compared
with those without swaps. Granule's encode bench gives the speed in process, on the same dictionary.
Needs fastapi, uvicorn, uvloop, httptools, sae-lens, torch, protobuf and grpcio-tools.

    python3 benchmarks/serving.py
    python3 benchmarks/serving.py --shape 576:4096:32 --tokens 16 --seconds 2 --swap
"""

import argparse
import json
import math
import os
import re
import select
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from command_line import options_parser
from granule_program import ROOT, bench_output

CONNECTIONS = 8

Measurement = dict[str, Any]


def parse_options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument("--shape", default="576:16384:64", help="d_model:latents:k")
    parser.add_argument("--tokens", default="1,16,256", help="tokens a request, with commas")
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement")
    parser.add_argument("--swap", action="store_true", help="measure swaps at half load too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser.parse_args()


# MARK: The peer


def peer_application() -> Any:
    """FastAPI around SAELens, which is what people run today. uvicorn starts it, and environment
    variables configure it."""
    import warnings

    import numpy as np
    import torch
    from fastapi import FastAPI, Request, Response
    from sae_lens import SAE

    warnings.filterwarnings("ignore", message="Sparse CSR")
    torch.set_num_threads(int(os.environ["PEER_THREADS"]))
    sae = SAE.load_from_disk(os.environ["PEER_DICTIONARY"])
    application = FastAPI()

    @application.post("/encode")
    async def encode(request: Request) -> Response:
        body = await request.body()
        with torch.inference_mode():
            activations = torch.frombuffer(bytearray(body), dtype=torch.float32)
            latents = sae.encode(activations.reshape(-1, sae.cfg.d_in)).to_sparse_csr()
            parts = (latents.crow_indices(), latents.col_indices(), latents.values())
            types = (np.uint32, np.uint32, np.float32)
            content = b"".join(
                part.numpy().astype(to).tobytes() for part, to in zip(parts, types, strict=True)
            )
        return Response(content, media_type="application/octet-stream")

    return application


class Peer:
    def __init__(self, dictionary: str, processes: int, threads: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = dict(
            os.environ,
            PEER_DICTIONARY=dictionary,
            PEER_THREADS=str(threads),
            OMP_NUM_THREADS=str(threads),
        )
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uvicorn",
                "serving:peer_application",
                "--factory",
                "--app-dir",
                str(Path(__file__).resolve().parent),
                "--port",
                str(self.port),
                "--workers",
                str(processes),
                "--loop",
                "uvloop",
                "--http",
                "httptools",
                "--log-level",
                "warning",
                "--no-access-log",
            ],
            env=environment,
        )

    def __enter__(self) -> Self:
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.1)
        sys.exit("the FastAPI server did not start")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @staticmethod
    def request(activations: bytes) -> bytes:
        return (
            f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(activations)}"
            "\r\n\r\n"
        ).encode() + activations

    @staticmethod
    def answer_length(received: bytearray) -> int | None:
        """Length in bytes of the answer that `received` begins; None until its head has come."""
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = received[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            sys.exit(f"FastAPI: {bytes(head)!r}")
        return end + 4 + content_length(bytes(head))


def content_length(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head)
    if not found:
        sys.exit(f"FastAPI: no content-length in {head!r}")
    return int(found[1])


# MARK: Granule


class Granule:
    def __init__(self, options: argparse.Namespace, repository: str) -> None:
        self.options = options
        self.process = subprocess.Popen(
            [
                options.granule,
                "serve",
                "--repository",
                repository,
                "--listen",
                "127.0.0.1:0",
                "--log-level",
                "warning",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r" on (\S+):(\d+)", self.process.stdout.readline())
        if not found:
            sys.exit("granule serve did not start")
        self.address = (found[1], int(found[2]))
        self.admin = socket.socket(socket.AF_UNIX)
        self.admin.connect(f"{repository}/.granule-admin.sock")
        self.answers = self.admin.makefile("rb")
        self.is_loading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def load(self, version: int) -> bool:
        """Asks for a swap and does not wait for it; False if the last one is still under way."""
        import granule_pb2

        if self.is_loading and not select.select([self.admin], [], [], 0)[0]:
            return False
        self.finish_load()
        load = granule_pb2.LoadModelRequest(name="m", version=version)
        self.admin.sendall(self.framed(granule_pb2.Request(id=1, load_model=load)))
        self.is_loading = True
        return True

    def finish_load(self) -> None:
        """Waits for the answer to the last `load`."""
        import granule_pb2

        if not self.is_loading:
            return
        length = struct.unpack(">I", self.answers.read(4))[0]
        response = granule_pb2.Response.FromString(self.answers.read(length))
        if response.HasField("error"):
            sys.exit(f"a swap failed: {response.error.message}")
        self.is_loading = False

    @staticmethod
    def framed(message: Any) -> bytes:
        payload: bytes = message.SerializeToString()
        return struct.pack(">I", len(payload)) + payload

    @staticmethod
    def request(activations: bytes, shape: Sequence[int]) -> bytes:
        import granule_pb2

        tensor = granule_pb2.Tensor(type=granule_pb2.DATA_TYPE_F32, shape=shape, data=activations)
        encode = granule_pb2.EncodeRequest(model="m", activations=tensor)
        return Granule.framed(granule_pb2.Request(id=1, encode=encode))

    @staticmethod
    def answer_length(received: bytearray) -> int | None:
        """Length in bytes of the answer that `received` begins; None until its length has come."""
        if len(received) < 4:
            return None
        length: int = struct.unpack(">I", received[:4])[0]
        return 4 + length

    @staticmethod
    def check(answer: bytearray) -> None:
        import granule_pb2

        response = granule_pb2.Response.FromString(bytes(answer[4:]))
        if response.HasField("error"):
            sys.exit(f"granule serve: {response.error.message}")


# MARK: Clients


class Side(Protocol):
    """A server that is measured."""

    @property
    def address(self) -> tuple[str, int]: ...

    @staticmethod
    def answer_length(received: bytearray) -> int | None: ...


class Connection:
    def __init__(self, side: Side) -> None:
        self.side = side
        self.socket = socket.create_connection(side.address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.length: int | None = None
        self.sent = 0.0

    def send(self, request: bytes) -> None:
        self.received.clear()
        self.length = None
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Reads what has come, and says whether the answer is complete."""
        self.received += self.socket.recv(1 << 20)
        if self.length is None:
            self.length = self.side.answer_length(self.received)
        return self.length is not None and len(self.received) >= self.length


def measure(
    side: Side,
    request: bytes,
    tokens: int,
    seconds: float,
    connections: int = CONNECTIONS,
    rate: float | None = None,
    each_second: Callable[[], None] | None = None,
) -> Measurement:
    """Tokens a second and latencies in ms. With `rate`, that many requests a second are sent, each
    at its moment by a connection that is free, and latency counts from that moment."""
    clients = [Connection(side) for _ in range(connections)]
    watch = selectors.DefaultSelector()
    for client in clients:
        watch.register(client.socket, selectors.EVENT_READ, client)
    free, latencies = list(clients), list[float]()
    due_of: dict[Connection, float] = {}
    warm, number = 0.2 * seconds, 0
    begin = time.perf_counter()
    next_second = begin + warm
    while (now := time.perf_counter()) < begin + warm + seconds:
        if each_second and now >= next_second:
            each_second()
            next_second += 1
        while free and (rate is None or begin + number / rate <= time.perf_counter()):
            client = free.pop()
            client.send(request)
            due_of[client] = client.sent if rate is None else begin + number / rate
            number += 1
        wait = 0.05 if rate is None else max(begin + number / rate - time.perf_counter(), 0)
        for key, _ in watch.select(min(wait, 0.05)):
            client = key.data
            if client.is_answered():
                if isinstance(side, Granule) and not latencies:
                    side.check(client.received)
                done = time.perf_counter()
                if done > begin + warm:
                    latencies.append(done - due_of[client])
                free.append(client)
    for client in clients:
        client.socket.close()
    return summary(latencies, tokens, time.perf_counter() - begin - warm)


def summary(latencies: Sequence[float], tokens: int, seconds: float) -> Measurement:
    """latencies: seconds of each request that was answered in time; tokens: of each request."""
    ascending = sorted(latencies)
    return {
        "tokens_per_second": len(latencies) * tokens / seconds,
        "requests": len(latencies),
        **{f"p{part:g}_ms": 1000 * percentile(ascending, part) for part in (50, 99)},
    }


def percentile(ascending: Sequence[float], part: float) -> float:
    """The smallest value that is larger than `part` per cent of the values, or the largest value;
    NaN if there is none."""
    if not ascending:
        return math.nan
    return ascending[min(int(len(ascending) * part / 100), len(ascending) - 1)]


def fastest(measured: Sequence[tuple[Measurement, Measurement]]) -> tuple[Measurement, Measurement]:
    """Of the settings, each measured with all connections and with one, that with the most tokens a
    second; the first one of equals."""
    return max(measured, key=lambda pair: pair[0]["tokens_per_second"])


def in_process(
    options: argparse.Namespace, dictionary: str, activations: str, tokens: int
) -> float:
    """Milliseconds that a batch takes in Granule's own process."""
    output = bench_output(
        options.granule,
        "encode",
        "--dictionary",
        dictionary,
        "--activations",
        activations,
        "--batch",
        str(tokens),
        "--json",
    )
    return float(json.loads(output)[0]["ms"])


def measure_swaps(
    granule: Granule, request: bytes, tokens: int, seconds: float, capacity: float
) -> Measurement:
    """Latencies at half of the capacity, in tokens a second, without and with swaps."""
    rate = capacity / tokens / 2
    steady = measure(granule, request, tokens, seconds, rate=rate)
    swaps, version = 0, 1

    def swap() -> None:
        nonlocal swaps, version
        if granule.load(3 - version):
            version = 3 - version
            swaps += 1

    swapped = measure(granule, request, tokens, seconds, rate=rate, each_second=swap)
    granule.finish_load()
    return {"steady": steady, "swapped": swapped, "swaps": swaps}


def prepare(options: argparse.Namespace, folder: str, batch: int) -> tuple[str, str]:
    """Draws a dictionary, publishes it twice, and makes Python's side of the wire contract. Returns
    the dictionary's folder and the file of activations."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={ROOT}/proto",
            f"--python_out={folder}",
            "granule.proto",
        ],
        check=True,
    )
    sys.path.insert(0, folder)
    d_model, latents, k = options.shape.split(":")
    bench_output(
        options.granule,
        "encode",
        "--d-model",
        d_model,
        "--latents",
        latents,
        "--k",
        k,
        "--batch",
        str(batch),
        "--data",
        "correlated",
        "--repeat",
        "1",
        "--save",
        f"{folder}/random",
    )
    dictionary = f"{folder}/random/dictionary"
    for _ in range(2):
        subprocess.run(
            [
                options.granule,
                "publish",
                dictionary,
                "--repository",
                f"{folder}/models",
                "--name",
                "m",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return dictionary, f"{folder}/random/activations.safetensors"


def measure_peer(
    dictionary: str, activations: bytes, tokens: int, seconds: float
) -> tuple[Measurement, Measurement]:
    """FastAPI in its best setting: with all connections and with one."""
    cores = os.cpu_count() or 1
    found = []
    for processes, threads in ((1, cores), (1, 1), (cores, 1)):
        with Peer(dictionary, processes, threads) as peer:
            request = peer.request(activations)
            measured = measure(peer, request, tokens, seconds)
            measured["setting"] = f"{processes} processes × {threads} threads"
            found.append((measured, measure(peer, request, tokens, seconds / 2, connections=1)))
    return fastest(found)


def main() -> None:
    options = parse_options()
    from safetensors.numpy import load_file

    sizes = [int(part) for part in options.tokens.split(",")]
    with tempfile.TemporaryDirectory(prefix="granule-serving-") as folder:
        dictionary, path = prepare(options, folder, max(sizes))
        activations = load_file(path)["activations"]
        rows = []
        for tokens in sizes:
            batch = activations[:tokens].astype("<f4")
            row: Measurement = {"tokens": tokens}
            row["in_process_ms"] = in_process(options, dictionary, path, tokens)
            with Granule(options, f"{folder}/models") as granule:
                request = granule.request(batch.tobytes(), batch.shape)
                row["granule"] = measure(granule, request, tokens, options.seconds)
                row["granule_alone"] = measure(
                    granule, request, tokens, options.seconds / 2, connections=1
                )
                if options.swap:
                    capacity = row["granule"]["tokens_per_second"]
                    row["swap"] = measure_swaps(
                        granule, request, tokens, 2 * options.seconds, capacity
                    )
            row["fastapi"], row["fastapi_alone"] = measure_peer(
                dictionary, batch.tobytes(), tokens, options.seconds
            )
            rows.append(row)
            if not options.json:
                print(report(row))
    if options.json:
        print(json.dumps(rows, indent=2))


def report(row: Measurement) -> str:
    ours, theirs, tokens = row["granule"], row["fastapi"], row["tokens"]
    direct = 1000 * tokens / row["in_process_ms"]
    lines = [f"{tokens} tokens a request, {CONNECTIONS} connections"]
    for name, side, alone in (
        ("Granule", ours, row["granule_alone"]),
        ("FastAPI", theirs, row["fastapi_alone"]),
    ):
        lines.append(
            f"  {name:8} {side['tokens_per_second']:10,.0f} tokens/s   p50 {side['p50_ms']:8.2f} "
            f"ms   p99 {side['p99_ms']:8.2f} ms   one connection: p50 {alone['p50_ms']:.3f} ms"
            + (f"   ({side['setting']})" if "setting" in side else "")
        )
    lines.append(
        f"  {ours['tokens_per_second'] / theirs['tokens_per_second']:.1f} × FastAPI's tokens/s, "
        f"p99 1/{theirs['p99_ms'] / ours['p99_ms']:.1f} of its; "
        f"{ours['tokens_per_second'] / direct:.2f} × in process, where a batch takes "
        f"{row['in_process_ms']:.3f} ms"
    )
    if "swap" in row:
        steady, swapped = row["swap"]["steady"], row["swap"]["swapped"]
        lines.append(
            f"  half load: p99 {steady['p99_ms']:.2f} ms, with {row['swap']['swaps']} swaps "
            f"{swapped['p99_ms']:.2f} ms: {swapped['p99_ms'] / steady['p99_ms']:.2f} ×"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
