#!/usr/bin/env python3
"""A server's memory: before and after a resize under load, and with idle and busy connections.

Starts `granule serve` with a random dictionary, and reads its resident memory from its own metrics;
this process holds the idle connections, `granule bench serve` the busy ones. Needs nothing but
Python, and 2 open files for each connection.

    python3 benchmarks/server_memory.py
    python3 benchmarks/server_memory.py --shape 576:4096:32 --idle 1000 --busy 20 --seconds 2
"""
import argparse
import contextlib
import json
import os
import re
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

MIB = 1 << 20


def parse_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--granule", default=os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", ".build", "release", "granule"))
    parser.add_argument("--shape", default="576:16384:64", help="d_model:latents:k")
    parser.add_argument("--resize", type=int, help="latents to keep; default: an eighth")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections")
    parser.add_argument("--busy", type=int, default=200, help="connections that ask without pause")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


class Server:
    """A `granule serve` on free ports, ended with the context."""

    def __init__(self, granule, repository, *options):
        self.granule = granule
        self.admin = f"unix:{repository}/.granule-admin.sock"
        self.process = subprocess.Popen(
            [granule, "serve", "--repository", repository, "--listen", "127.0.0.1:0",
             "--http", "127.0.0.1:0", "--log-level", "warning", *options],
            stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r" on (\S+) .* at (http://\S+)/metrics", line)
        if not found:
            sys.exit(f"the server did not start: {line}")
        self.address, self.url = found.groups()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def metrics(self):
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (
            line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    def resident_mib(self):
        return self.metrics()["process_resident_memory_bytes"] / MIB

    def resize(self, granularity):
        subprocess.run(
            [self.granule, "resize", "m", "--granularity", str(granularity), "--admin", self.admin],
            check=True, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def load(self, connections, seconds, *options):
        """Requests without pause; yields the process, which must not fail."""
        process = subprocess.Popen(
            [self.granule, "bench", "serve", "--server", self.address, "--model", "m",
             "--connections", str(connections), "--seconds", str(seconds), "--loads", "0.5",
             "--json", *options], stdout=subprocess.PIPE, text=True)
        yield process
        process.communicate()
        if process.returncode != 0:
            sys.exit("a request under load failed")


def settle(read):
    """The value once it has stopped falling: the least of the last second's."""
    values = [read()]
    while len(values) < 6 or min(values[-5:]) < min(values[:-5]) * 0.99:
        time.sleep(0.2)
        values.append(read())
    return values[-1]


def measure_resize(options, repository, latents):
    least = options.resize or latents // 8
    with Server(options.granule, repository) as server:
        resident = lambda: server.metrics()[
            'granule_model_resident_bytes{model="m",version="1"}'] / MIB
        row = {"latents": latents, "resized_to": least}
        # At a granularity that stays: no request may fail meanwhile.
        with server.load(8, options.seconds, "--granularity", str(least)) as load:
            # Under load from the first answer on.
            while server.metrics()["granule_requests_computed_total"] < 10 and load.poll() is None:
                time.sleep(0.05)
            row["weights_mib"], row["before_mib"] = resident(), settle(server.resident_mib)
            server.resize(least)
            row["small_weights_mib"], row["shrunk_mib"] = resident(), settle(server.resident_mib)
            server.resize(0)
            row["grown_mib"] = settle(server.resident_mib)
            server.resize(least)
            row["shrunk_again_mib"] = settle(server.resident_mib)
            row["still_under_load"] = load.poll() is None
        return row


def connect(address, count):
    host, port = address.rsplit(":", 1)
    connections = []
    for _ in range(count):
        connections.append(socket.create_connection((host, int(port)), timeout=60))
    return connections


def measure_connections(options, repository):
    limit = options.idle + options.busy + 100
    with Server(
            options.granule, repository, "--limit", f"connections-max={limit}",
            "--limit", "trim-after=1") as server:
        # Until what loading left behind has been given back.
        time.sleep(3)
        row = {"start_mib": server.resident_mib()}
        begin = time.monotonic()
        idle = connect(server.address, options.idle)
        while server.metrics()["granule_connections"] < options.idle:
            time.sleep(0.05)
        row["connect_seconds"] = time.monotonic() - begin
        row["idle_mib"] = settle(server.resident_mib)
        row["kib_per_idle_connection"] = (
            (row["idle_mib"] - row["start_mib"]) * 1024 / max(options.idle, 1))
        most, most_connections = 0, 0
        with server.load(options.busy, options.seconds) as load:
            while load.poll() is None:
                metrics = server.metrics()
                most = max(most, metrics["process_resident_memory_bytes"] / MIB)
                most_connections = max(most_connections, metrics["granule_connections"])
                time.sleep(0.1)
        row["busy_mib"], row["connections"] = most, int(most_connections)
        metrics = server.metrics()
        row["requests"] = int(metrics['granule_requests_total{method="encode",code="OK"}'])
        row["failed"] = int(sum(
            value for name, value in metrics.items()
            if name.startswith('granule_requests_total{method="encode"') and "OK" not in name))
        row["aborted"] = int(sum(
            value for name, value in metrics.items() if "connections_aborted_total{" in name))
        # None of the idle ones has been closed or written to.
        watch = selectors.DefaultSelector()
        for connection in idle:
            watch.register(connection, selectors.EVENT_READ)
        row["disturbed"] = len(watch.select(timeout=0))
        for connection in idle:
            connection.close()
        while server.metrics()["granule_connections"] > 0:
            time.sleep(0.05)
        time.sleep(3)
        row["after_mib"] = settle(server.resident_mib)
        return row


def main():
    options = parse_options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    d_model, latents, k = options.shape.split(":")
    with tempfile.TemporaryDirectory(prefix="granule-memory-") as folder:
        repository = os.path.join(folder, "models")
        subprocess.run(
            [options.granule, "bench", "encode", "--d-model", d_model, "--latents", latents,
             "--k", k, "--batch", "1", "--repeat", "1", "--save", f"{folder}/random"],
            check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [options.granule, "publish", f"{folder}/random/dictionary", "--repository", repository,
             "--name", "m"], check=True, stdout=subprocess.DEVNULL)
        rows = {
            "resize": measure_resize(options, repository, int(latents)),
            "connections": measure_connections(options, repository),
        }
    if options.json:
        return print(json.dumps(rows, indent=2))
    for title, row in rows.items():
        print(title)
        for name, value in row.items():
            print(f"  {name.replace('_', ' '):26}", f"{value:,.1f}" if isinstance(value, float) else value)


if __name__ == "__main__":
    main()
