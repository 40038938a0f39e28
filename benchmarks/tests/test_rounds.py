"""The fastest round of each side counts."""

from rounds import compared, keep_fastest


def test_the_fastest_round_is_kept() -> None:
    fastest: dict[str, float] = {}
    for seconds in ({"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 4.0}):
        keep_fastest(fastest, seconds)
    assert fastest == {"a": 2.0, "b": 1.0}


def test_sides_are_compared_in_tokens_a_second() -> None:
    (row,) = compared({"forward": 2.0}, {"forward": 5.0, "other": 1.0}, 1000)
    assert row == {
        "work": "forward",
        "granule_tokens_per_second": 500,
        "torch_tokens_per_second": 200,
        "ratio": 2.5,
    }
