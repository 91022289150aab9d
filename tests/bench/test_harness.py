"""The harness says which of two callables is faster, and by how much."""

from __future__ import annotations

import time

import pytest

from reion.bench.harness import Ratio, Result, fastest, interleaved


def test_the_ratio_is_that_of_the_times():
    compared = interleaved(lambda: time.sleep(0.02), lambda: time.sleep(0.08), rounds=5)
    assert 0 < compared.ratio.smallest <= compared.ratio.value <= compared.ratio.largest
    assert compared.ratio.value == pytest.approx(4, rel=0.4)
    assert compared.seconds == pytest.approx(0.02, rel=0.4)


def test_the_fastest_is_found():
    def slow():
        time.sleep(0.03)

    def quick():
        pass

    assert fastest(slow, quick, rounds=3) is quick


def test_a_ratio_is_the_median_with_its_range():
    ratio = Ratio.of(value for value in (3.0, 1.0, 10.0))
    assert ratio == Ratio(3.0, 1.0, 10.0)
    assert ratio.times(2) == Ratio(6.0, 2.0, 20.0)


def test_the_json_is_flat():
    result = Result(
        name="x", ratio=Ratio(2.0, 1.0, 3.0), against="y", target=1.5, extra={"seconds": 0.1}
    ).to_json()
    assert result == {
        "name": "x",
        "ratio": 2.0,
        "against": "y",
        "target": 1.5,
        "spread": [1.0, 3.0],
        "seconds": 0.1,
    }
