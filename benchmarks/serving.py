#!/usr/bin/env python3
"""Granule's server against a FastAPI server around SAELens' `SAE.encode`, in one run.

Both serve one random TopK dictionary to the same clients: connections of this process that each
send the next request when an answer has come, over loopback, with float32 activations as they lie in
memory. FastAPI answers row offsets, indices and values as bytes too, and runs under uvicorn with
uvloop and httptools, SAELens under torch.inference_mode; of the settings tried (processes × torch's
threads) the one with the most tokens a second counts, and is printed. Each side runs alone.

With --swap the dictionary is swapped each second, or as soon as the last swap is done where that
takes longer, at half of the tokens a second that the server can answer, and latencies are compared
with those without swaps. `granule bench encode` gives the speed in process, on the same dictionary.
Needs fastapi, uvicorn, uvloop, httptools, sae-lens, torch, protobuf and grpcio-tools.

    python3 benchmarks/serving.py
    python3 benchmarks/serving.py --shape 576:4096:32 --tokens 16 --seconds 2 --swap
"""
import argparse
import json
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

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
CONNECTIONS = 8


def parse_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--granule", default=os.path.join(ROOT, ".build", "release", "granule"))
    parser.add_argument("--shape", default="576:16384:64", help="d_model:latents:k")
    parser.add_argument("--tokens", default="1,16,256", help="tokens a request")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--swap", action="store_true", help="measure swaps at half load, too")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


# MARK: The peer


def peer_application():
    """What people run today: FastAPI around SAELens. Started by uvicorn, configured by environment."""
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
    async def encode(request: Request):
        body = await request.body()
        with torch.inference_mode():
            activations = torch.frombuffer(bytearray(body), dtype=torch.float32)
            latents = sae.encode(activations.reshape(-1, sae.cfg.d_in)).to_sparse_csr()
            parts = (latents.crow_indices(), latents.col_indices(), latents.values())
            types = (np.uint32, np.uint32, np.float32)
            content = b"".join(part.numpy().astype(to).tobytes() for part, to in zip(parts, types))
        return Response(content, media_type="application/octet-stream")

    return application


class Peer:
    def __init__(self, dictionary, processes, threads):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = dict(
            os.environ, PEER_DICTIONARY=dictionary, PEER_THREADS=str(threads),
            OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "serving:peer_application", "--factory",
             "--app-dir", os.path.dirname(os.path.abspath(__file__)), "--port", str(self.port),
             "--workers", str(processes), "--loop", "uvloop", "--http", "httptools",
             "--log-level", "warning", "--no-access-log"], env=environment)

    def __enter__(self):
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.1)
        sys.exit("the FastAPI server did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    address = property(lambda self: ("127.0.0.1", self.port))

    @staticmethod
    def request(activations, shape):
        return (f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(activations)}"
                "\r\n\r\n").encode() + activations

    @staticmethod
    def answer_length(received):
        """Bytes of the answer that `received` begins; None where it does not say yet."""
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = received[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            sys.exit(f"FastAPI: {bytes(head)}")
        return end + 4 + int(re.search(rb"content-length: (\d+)", head)[1])


# MARK: Granule


class Granule:
    def __init__(self, options, repository):
        self.options = options
        self.process = subprocess.Popen(
            [options.granule, "serve", "--repository", repository, "--listen", "127.0.0.1:0",
             "--log-level", "warning"], stdout=subprocess.PIPE, text=True)
        found = re.search(r" on (\S+):(\d+)", self.process.stdout.readline())
        if not found:
            sys.exit("granule serve did not start")
        self.address = (found[1], int(found[2]))
        self.admin = socket.socket(socket.AF_UNIX)
        self.admin.connect(f"{repository}/.granule-admin.sock")
        self.answers = self.admin.makefile("rb")
        self.is_loading = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def load(self, version):
        """Asks for a swap and does not wait for it; False where the last one is still under way."""
        import granule_pb2
        if self.is_loading and not select.select([self.admin], [], [], 0)[0]:
            return False
        self.finish_load()
        load = granule_pb2.LoadModelRequest(name="m", version=version)
        self.admin.sendall(self.framed(granule_pb2.Request(id=1, load_model=load)))
        self.is_loading = True
        return True

    def finish_load(self):
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
    def framed(message):
        payload = message.SerializeToString()
        return struct.pack(">I", len(payload)) + payload

    @staticmethod
    def request(activations, shape):
        import granule_pb2
        tensor = granule_pb2.Tensor(
            type=granule_pb2.DATA_TYPE_F32, shape=shape, data=activations)
        encode = granule_pb2.EncodeRequest(model="m", activations=tensor)
        return Granule.framed(granule_pb2.Request(id=1, encode=encode))

    @staticmethod
    def answer_length(received):
        return 4 + struct.unpack(">I", received[:4])[0] if len(received) >= 4 else None

    @staticmethod
    def check(answer):
        import granule_pb2
        response = granule_pb2.Response.FromString(bytes(answer[4:]))
        if response.HasField("error"):
            sys.exit(f"granule serve: {response.error.message}")


# MARK: Clients


class Connection:
    def __init__(self, side):
        self.side = side
        self.socket = socket.create_connection(side.address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.length = None

    def send(self, request):
        self.received.clear()
        self.length = None
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def is_answered(self):
        """Reads what has come; whether that is the whole answer."""
        self.received += self.socket.recv(1 << 20)
        if self.length is None:
            self.length = self.side.answer_length(self.received)
        return self.length is not None and len(self.received) >= self.length


def measure(side, request, tokens, seconds, connections=CONNECTIONS, rate=None, each_second=None):
    """Tokens a second and latencies in ms. With `rate` requests a second are sent at their moments,
    by connections that are free; latency counts from that moment."""
    clients = [Connection(side) for _ in range(connections)]
    watch = selectors.DefaultSelector()
    for client in clients:
        watch.register(client.socket, selectors.EVENT_READ, client)
    free, latencies, due_of = list(clients), [], {}
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
                if hasattr(side, "check"):
                    side.check(client.received) if not latencies else None
                done = time.perf_counter()
                if done > begin + warm:
                    latencies.append(done - due_of[client])
                free.append(client)
    for client in clients:
        client.socket.close()
    latencies.sort()
    return {
        "tokens_per_second": len(latencies) * tokens / (time.perf_counter() - begin - warm),
        "requests": len(latencies),
        **{f"p{part:g}_ms": 1000 * latencies[min(int(len(latencies) * part / 100), len(latencies) - 1)]
           for part in (50, 99)}}


def in_process(options, dictionary, activations, tokens):
    output = subprocess.run(
        [options.granule, "bench", "encode", "--dictionary", dictionary, "--activations", activations,
         "--batch", str(tokens), "--json"], check=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL).stdout
    return json.loads(output)[0]["ms"]


def measure_swaps(granule, request, tokens, seconds, capacity):
    rate = capacity / tokens / 2
    steady = measure(granule, request, tokens, seconds, rate=rate)
    swaps, version = 0, 1

    def swap():
        nonlocal swaps, version
        if granule.load(3 - version):
            version = 3 - version
            swaps += 1

    swapped = measure(granule, request, tokens, seconds, rate=rate, each_second=swap)
    granule.finish_load()
    return {"steady": steady, "swapped": swapped, "swaps": swaps}


def main():
    options = parse_options()
    from safetensors.numpy import load_file
    d_model, latents, k = options.shape.split(":")
    sizes = [int(part) for part in options.tokens.split(",")]
    with tempfile.TemporaryDirectory(prefix="granule-serving-") as folder:
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT}/proto",
             f"--python_out={folder}", "granule.proto"], check=True)
        sys.path.insert(0, folder)
        subprocess.run(
            [options.granule, "bench", "encode", "--d-model", d_model, "--latents", latents, "--k", k,
             "--batch", str(max(sizes)), "--data", "correlated", "--repeat", "1", "--save",
             f"{folder}/random"], check=True, stdout=subprocess.DEVNULL)
        dictionary = f"{folder}/random/dictionary"
        activations = load_file(f"{folder}/random/activations.safetensors")["activations"]
        for _ in range(2):
            subprocess.run(
                [options.granule, "publish", dictionary, "--repository", f"{folder}/models",
                 "--name", "m"], check=True, stdout=subprocess.DEVNULL)
        cores = os.cpu_count()
        rows = []
        for tokens in sizes:
            batch = activations[:tokens].astype("<f4")
            row = {"tokens": tokens}
            row["in_process_ms"] = in_process(
                options, dictionary, f"{folder}/random/activations.safetensors", tokens)
            with Granule(options, f"{folder}/models") as granule:
                request = granule.request(batch.tobytes(), batch.shape)
                row["granule"] = measure(granule, request, tokens, options.seconds)
                row["granule_alone"] = measure(
                    granule, request, tokens, options.seconds / 2, connections=1)
                if options.swap:
                    row["swap"] = measure_swaps(
                        granule, request, tokens, 2 * options.seconds,
                        row["granule"]["tokens_per_second"])
            best = None
            for processes, threads in ((1, cores), (1, 1), (cores, 1)):
                with Peer(dictionary, processes, threads) as peer:
                    request = peer.request(batch.tobytes(), batch.shape)
                    measured = measure(peer, request, tokens, options.seconds)
                    measured["setting"] = f"{processes} processes × {threads} threads"
                    alone = measure(peer, request, tokens, options.seconds / 2, connections=1)
                    if best is None or measured["tokens_per_second"] > best[0]["tokens_per_second"]:
                        best = measured, alone
            row["fastapi"], row["fastapi_alone"] = best
            rows.append(row)
            report(row) if not options.json else None
    if options.json:
        print(json.dumps(rows, indent=2))


def report(row):
    ours, theirs, tokens = row["granule"], row["fastapi"], row["tokens"]
    direct = 1000 * tokens / row["in_process_ms"]
    print(f"{tokens} tokens a request, {CONNECTIONS} connections")
    for name, side, alone in (
            ("Granule", ours, row["granule_alone"]), ("FastAPI", theirs, row["fastapi_alone"])):
        print(f"  {name:8} {side['tokens_per_second']:10,.0f} tokens/s   p50 {side['p50_ms']:8.2f} ms   "
              f"p99 {side['p99_ms']:8.2f} ms   one connection: p50 {alone['p50_ms']:.3f} ms"
              + (f"   ({side['setting']})" if "setting" in side else ""))
    print(f"  {ours['tokens_per_second'] / theirs['tokens_per_second']:.1f} × FastAPI's tokens/s, "
          f"p99 1/{theirs['p99_ms'] / ours['p99_ms']:.1f} of its; "
          f"{ours['tokens_per_second'] / direct:.2f} × in process, where a batch takes "
          f"{row['in_process_ms']:.3f} ms")
    if "swap" in row:
        steady, swapped = row["swap"]["steady"], row["swap"]["swapped"]
        print(f"  half load: p99 {steady['p99_ms']:.2f} ms, with {row['swap']['swaps']} swaps "
              f"{swapped['p99_ms']:.2f} ms: {swapped['p99_ms'] / steady['p99_ms']:.2f} ×")


if __name__ == "__main__":
    main()
