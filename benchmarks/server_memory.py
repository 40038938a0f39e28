#!/usr/bin/env python3
"""A server's memory before and after a resize under load, and with idle and busy connections.

Starts `granule serve` with a random dictionary and reads its resident memory from its own metrics.
This process holds the idle connections, and Granule's serve bench the busy ones. Needs nothing but
Python, and 2 open files for each connection.

    python3 benchmarks/server_memory.py
    python3 benchmarks/server_memory.py --shape 576:4096:32 --idle 1000 --busy 20 --seconds 2
"""

import argparse
import contextlib
import json
import re
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from command_line import options_parser
from granule_program import bench_command, bench_output

MIB = 1 << 20

Row = dict[str, float]


def parse_options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument("--shape", default="576:16384:64", help="d_model:latents:k")
    parser.add_argument("--resize", type=int, help="latents to keep (default: an eighth)")
    parser.add_argument("--idle", type=int, default=10_000, help="number of idle connections")
    parser.add_argument(
        "--busy", type=int, default=200, help="number of connections that ask without pause"
    )
    parser.add_argument("--seconds", type=float, default=5, help="length of each load")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")
    return parser.parse_args()


class Server:
    """A `granule serve` on free ports, ended with the context."""

    def __init__(self, granule: Path, repository: str, *options: str) -> None:
        self.granule = granule
        self.admin = f"unix:{repository}/.granule-admin.sock"
        self.process = subprocess.Popen(
            [
                granule,
                "serve",
                "--repository",
                repository,
                "--listen",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--log-level",
                "warning",
                *options,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r" on (\S+) .* at (http://\S+)/metrics", line)
        if not found:
            sys.exit(f"the server did not start: {line}")
        self.address, self.url = found[1], found[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            return parse_metrics(answer.read().decode())

    def resident_mib(self) -> float:
        return self.metrics()["process_resident_memory_bytes"] / MIB

    def weights_mib(self) -> float:
        return self.metrics()['granule_model_resident_bytes{model="m",version="1"}'] / MIB

    def resize(self, granularity: int) -> None:
        subprocess.run(
            [self.granule, "resize", "m", "--granularity", str(granularity), "--admin", self.admin],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @contextlib.contextmanager
    def load(
        self, connections: int, seconds: float, *options: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Requests without pause; yields the process, which must not fail."""
        process = subprocess.Popen(
            [
                *bench_command(self.granule, "serve"),
                "--server",
                self.address,
                "--model",
                "m",
                "--connections",
                str(connections),
                "--seconds",
                str(seconds),
                "--loads",
                "0.5",
                "--json",
                *options,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        yield process
        process.communicate()
        if process.returncode != 0:
            sys.exit("a request under load failed")


def parse_metrics(text: str) -> dict[str, float]:
    """Values by name and labels, from the Prometheus text format."""
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def failed_requests(metrics: Mapping[str, float]) -> int:
    """Encode requests that were answered with anything but OK."""
    prefix = 'granule_requests_total{method="encode"'
    return int(
        sum(
            value
            for name, value in metrics.items()
            if name.startswith(prefix) and 'code="OK"' not in name
        )
    )


def aborted_connections(metrics: Mapping[str, float]) -> int:
    return int(
        sum(value for name, value in metrics.items() if "connections_aborted_total{" in name)
    )


def has_settled(values: list[float]) -> bool:
    """Whether the last five values are at most 1 % below all before them."""
    return len(values) >= 6 and min(values[-5:]) >= min(values[:-5]) * 0.99


def settle(read: Callable[[], float], pause: float = 0.2) -> float:
    """The value once it has stopped falling for a second."""
    values = [read()]
    while not has_settled(values):
        time.sleep(pause)
        values.append(read())
    return values[-1]


def kib_each(before_mib: float, after_mib: float, count: int) -> float:
    return (after_mib - before_mib) * 1024 / max(count, 1)


def measure_resize(options: argparse.Namespace, repository: str, latents: int) -> Row:
    least = options.resize or latents // 8
    with Server(options.granule, repository) as server:
        row: Row = {"latents": latents, "resized_to": least}
        # The load asks for a granularity that stays, so that no request may fail meanwhile.
        with server.load(8, options.seconds, "--granularity", str(least)) as load:
            # The server is under load once it has answered.
            while server.metrics()["granule_requests_computed_total"] < 10 and load.poll() is None:
                time.sleep(0.05)
            row["weights_mib"], row["before_mib"] = (
                server.weights_mib(),
                settle(server.resident_mib),
            )
            server.resize(least)
            row["small_weights_mib"], row["shrunk_mib"] = (
                server.weights_mib(),
                settle(server.resident_mib),
            )
            server.resize(0)
            row["grown_mib"] = settle(server.resident_mib)
            server.resize(least)
            row["shrunk_again_mib"] = settle(server.resident_mib)
            row["still_under_load"] = load.poll() is None
        return row


def connect(address: str, count: int) -> list[socket.socket]:
    host, port = address.rsplit(":", 1)
    return [socket.create_connection((host, int(port)), timeout=60) for _ in range(count)]


def measure_connections(options: argparse.Namespace, repository: str) -> Row:
    limit = options.idle + options.busy + 100
    with Server(
        options.granule,
        repository,
        "--limit",
        f"connections-max={limit}",
        "--limit",
        "trim-after=1",
    ) as server:
        # By then the server has given back what loading left behind.
        time.sleep(3)
        row: Row = {"start_mib": server.resident_mib()}
        begin = time.monotonic()
        idle = connect(server.address, options.idle)
        while server.metrics()["granule_connections"] < options.idle:
            time.sleep(0.05)
        row["connect_seconds"] = time.monotonic() - begin
        row["idle_mib"] = settle(server.resident_mib)
        row["kib_per_idle_connection"] = kib_each(row["start_mib"], row["idle_mib"], options.idle)
        most, most_connections = 0.0, 0.0
        with server.load(options.busy, options.seconds) as load:
            while load.poll() is None:
                metrics = server.metrics()
                most = max(most, metrics["process_resident_memory_bytes"] / MIB)
                most_connections = max(most_connections, metrics["granule_connections"])
                time.sleep(0.1)
        row["busy_mib"], row["connections"] = most, int(most_connections)
        metrics = server.metrics()
        row["requests"] = int(metrics['granule_requests_total{method="encode",code="OK"}'])
        row["failed"] = failed_requests(metrics)
        row["aborted"] = aborted_connections(metrics)
        # No idle connection may have been closed or written to.
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


def main() -> None:
    options = parse_options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    d_model, latents, k = options.shape.split(":")
    with tempfile.TemporaryDirectory(prefix="granule-memory-") as folder:
        repository = f"{folder}/models"
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
            "1",
            "--repeat",
            "1",
            "--save",
            f"{folder}/random",
        )
        subprocess.run(
            [
                options.granule,
                "publish",
                f"{folder}/random/dictionary",
                "--repository",
                repository,
                "--name",
                "m",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows = {
            "resize": measure_resize(options, repository, int(latents)),
            "connections": measure_connections(options, repository),
        }
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for title, row in rows.items():
        print(title)
        for name, value in row.items():
            shown = f"{value:,.1f}" if isinstance(value, float) else value
            print(f"  {name.replace('_', ' '):26}", shown)


if __name__ == "__main__":
    main()
