"""What is read from the server's metrics, and when its memory has settled."""

import pytest

from server_memory import (
    aborted_connections,
    failed_requests,
    has_settled,
    kib_each,
    parse_metrics,
    settle,
)

TEXT = """# HELP granule_requests_total Requests.
# TYPE granule_requests_total counter
granule_requests_total{method="encode",code="OK"} 90
granule_requests_total{method="encode",code="UNAVAILABLE"} 3
granule_requests_total{method="encode",code="NOT_OK"} 4
granule_requests_total{method="decode",code="INVALID"} 5
granule_connections_aborted_total{reason="slow reader"} 2
granule_connections_aborted_total{reason="garbage"} 1
process_resident_memory_bytes 1.5e+06
"""


def test_metrics_are_read_by_name_and_labels() -> None:
    metrics = parse_metrics(TEXT)
    assert len(metrics) == 7
    assert metrics["process_resident_memory_bytes"] == 1_500_000
    assert metrics['granule_connections_aborted_total{reason="slow reader"}'] == 2
    assert parse_metrics("") == {}


def test_failures_are_all_encode_requests_but_those_that_are_ok() -> None:
    assert failed_requests(parse_metrics(TEXT)) == 7
    assert failed_requests({}) == 0


def test_aborted_connections_are_summed_over_reasons() -> None:
    assert aborted_connections(parse_metrics(TEXT)) == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100.0] * 5, False),  # too few to tell
        ([100.0] * 6, True),
        ([100.0, 100, 100, 100, 100, 98], False),  # still falling
        ([100.0, 99.5, 99.4, 99.3, 99.2, 99.1], True),  # by less than 1 %
        ([100.0, 50, 60, 60, 60, 60, 60], True),  # the least is more than five values ago
    ],
)
def test_has_settled(values: list[float], expected: bool) -> None:
    assert has_settled(values) is expected


def test_settle_returns_the_last_value() -> None:
    values = iter([100.0, 80, 60, 50, 50, 50, 50, 50.1, 49.9])
    assert settle(lambda: next(values), pause=0) == 49.9


def test_kib_each() -> None:
    assert kib_each(100, 110, 1024) == 10
    assert kib_each(100, 110, 0) == 10240
