"""Latencies, percentiles and the framing of both servers' answers."""

import math
import struct
from typing import Any

import numpy as np
import pytest

from serving import Granule, Peer, content_length, fastest, percentile, report, summary


@pytest.mark.parametrize("count", [3, 7, 101, 999])
@pytest.mark.parametrize("part", [50, 99])
def test_percentile_is_the_nearest_rank(count: int, part: float) -> None:
    values = np.sort(np.random.default_rng(count).exponential(size=count))
    expected = np.quantile(values, part / 100, method="inverted_cdf")
    assert percentile(values.tolist(), part) == expected


def test_percentile_at_the_edges() -> None:
    assert math.isnan(percentile([], 50))
    assert percentile([7.0], 50) == percentile([7.0], 99) == percentile([7.0], 0) == 7
    assert percentile([1.0, 2.0], 50) == 2
    assert percentile([1.0, 2.0, 3.0], 100) == 3
    assert percentile([5.0, 5.0, 5.0, 9.0], 50) == 5


def test_summary_is_in_tokens_a_second_and_ms() -> None:
    found = summary([0.004, 0.001, 0.002], tokens=16, seconds=1.5)
    assert found == {
        "tokens_per_second": 32,
        "requests": 3,
        "p50_ms": pytest.approx(2),
        "p99_ms": pytest.approx(4),
    }


def test_summary_of_nothing() -> None:
    found = summary([], tokens=16, seconds=1)
    assert found["tokens_per_second"] == found["requests"] == 0
    assert math.isnan(found["p99_ms"])


def measured(tokens_per_second: float) -> dict[str, Any]:
    return {"tokens_per_second": tokens_per_second}


def test_fastest_counts_all_connections_and_prefers_the_first() -> None:
    settings = [(measured(5), measured(9)), (measured(7), measured(1)), (measured(7), measured(2))]
    assert fastest(settings) is settings[1]


def test_granules_answer_begins_with_its_length() -> None:
    framed = bytearray(struct.pack(">I", 300) + b"x")
    assert Granule.answer_length(framed) == 304
    assert Granule.answer_length(framed[:4]) == 304
    assert Granule.answer_length(framed[:3]) is None
    assert Granule.answer_length(bytearray()) is None


def test_fastapis_answer_says_its_length_in_its_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\n"
    assert Peer.answer_length(bytearray(head + b"123")) == len(head) + 12
    assert Peer.answer_length(bytearray(head[:-1])) is None
    with pytest.raises(SystemExit, match="500"):
        Peer.answer_length(bytearray(head.replace(b"200 OK", b"500 NO")))
    with pytest.raises(SystemExit, match="no content-length"):
        content_length(b"http/1.1 200 ok")


def test_report_divides_the_sides() -> None:
    side = {"tokens_per_second": 3000.0, "p50_ms": 1.0, "p99_ms": 2.0}
    row = {
        "tokens": 16,
        "in_process_ms": 4.0,
        "granule": side,
        "granule_alone": side,
        "fastapi": side | {"tokens_per_second": 1000.0, "p99_ms": 5.0, "setting": "1 processes"},
        "fastapi_alone": side,
        "swap": {"steady": side, "swapped": side | {"p99_ms": 3.0}, "swaps": 7},
    }
    text = report(row)
    assert "3.0 × FastAPI's tokens/s, p99 1/2.5 of its; 0.75 × in process" in text
    assert "with 7 swaps 3.00 ms: 1.50 ×" in text
    assert text.count("(1 processes)") == 1
