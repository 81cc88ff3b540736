"""Thresholds hold the rate of false alarms that they state, and files are refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.audit import Calibration, load_calibration, share, threshold
from explain.audit.calibration import bounds, p_value
from explain.audit.verdict import holm
from explain.errors import FileError, InputError


def calibration(scores, lengths=None, detector="log_prob_min") -> Calibration:
    return Calibration(
        scores={detector: tuple(float(s) for s in scores)},
        lengths=tuple(lengths) if lengths is not None else (5,) * len(scores),
        references=None,
        words=None,
        settings={"forced": False, "generate": {}},
        data="clean",
        seen=len(scores),
        model_digest="sha256:" + "a" * 64,
        data_digest="sha256:" + "b" * 64,
    )


@given(st.integers(20, 300), st.sampled_from([0.01, 0.05, 0.1, 0.25]), st.integers(0, 99))
def test_the_threshold_is_the_kth_smallest_score(n, rate, seed):
    scores = np.random.default_rng(seed).normal(size=n)
    rank = math.ceil(round((n + 1) * (1 - rate), 9))
    expected = math.inf if rank > n else np.sort(scores)[rank - 1]
    assert threshold(scores, rate) == expected


@pytest.mark.parametrize("direction", ["low", "high", "both"])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_realised_rate_is_at_most_the_stated_one(direction, rate):
    """Marginal over calibrations, as the guarantee is: 1,500 of them, 50 new clean outputs each."""
    dice = np.random.default_rng(0)
    alarms = 0
    for _ in range(1_500):
        clean, new = dice.gamma(2.0, size=500), dice.gamma(2.0, size=50)
        found = bounds(clean, rate, direction)
        alarms += int(((new < found.low) | (new > found.high)).sum())
    realised = share(alarms, 75_000, level=0.999)
    assert realised.low <= rate
    # Split conformal is not wasteful either: above rate − 1 / (n + 1) a side.
    assert realised.high >= rate - 2 / 501


@given(st.lists(st.integers(0, 3), min_size=20, max_size=200), st.sampled_from([0.05, 0.2]))
def test_ties_only_make_it_more_careful(scores, rate):
    found = bounds(scores, rate, "high")
    assert sum(s > found.high for s in scores) <= rate * (len(scores) + 1)


def test_too_few_scores_flag_nothing():
    assert threshold([1.0, 2.0, 3.0], 0.01) == math.inf
    assert threshold([], 0.5) == math.inf


def test_undefined_scores_are_left_out():
    assert threshold([1.0, math.nan, 2.0, 3.0], 0.25) == 3.0
    assert not bounds([1.0, 2.0], 0.4, "both").outside(math.nan)


def test_clopper_pearson_is_the_exact_interval():
    assert share(0, 10).low == 0
    assert share(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert (share(5, 10).low, share(5, 10).high) == (
        pytest.approx(0.18709, abs=1e-4),
        pytest.approx(0.81291, abs=1e-4),
    )
    assert math.isnan(share(0, 0).value)


def test_bins_follow_length_where_there_are_outputs_enough():
    """Short outputs have small scores: pooled, no short output would ever be flagged."""
    lengths = [5] * 600 + [50] * 600
    scores = [*np.linspace(0, 1, 600), *np.linspace(10, 20, 600)]
    rule = calibration(scores, lengths, "entropy").rule("entropy", 0.05)
    assert [(b.first, b.last, b.n) for b in rule.bins] == [(5, 5, 600), (50, 50, 600)]
    assert rule.bounds_at(5).high < 1 < 19 < rule.bounds_at(50).high
    assert rule.bounds_at(1) == rule.bounds_at(5)
    assert rule.bounds_at(99) == rule.bounds_at(50)
    assert rule.exceeded.value <= 0.05
    assert len(calibration(scores[:700], lengths[:700], "entropy").rule("entropy", 0.05).bins) == 1


def test_excess_is_beyond_what_false_alarms_explain():
    rule = calibration(np.random.default_rng(1).normal(size=1_000)).rule("log_prob_min", 0.01)
    assert rule.excess(0, 500) == 1
    assert rule.excess(5, 500) > 0.3
    assert rule.excess(40, 500) < 1e-4


def test_p_values_count_the_output_itself():
    assert p_value([1, 2, 3], 4, "high") == 0.25
    assert p_value([1, 2, 3], 2, "low") == 0.75
    assert p_value([1, 2, 3], 0, "both") == 0.5


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_it_reads_back_what_it_wrote_and_refuses_another_model(tmp_path):
    path = tmp_path / "calibration.json"
    found = calibration([0.5, math.nan, -1.0])
    found.save(path)
    again = load_calibration(path, found.model_digest)
    assert str(again.scores) == str(found.scores)
    assert not again.enough
    with pytest.raises(InputError, match=r"calibration\.json is the calibration of another model"):
        load_calibration(path, "sha256:" + "c" * 64)
    path.write_text(path.read_text().replace('"lengths"', '"widths"'))
    with pytest.raises(FileError, match=r"calibration\.json is a broken calibration"):
        load_calibration(path)


def test_what_was_not_calibrated_is_refused():
    with pytest.raises(InputError, match="entropy was not calibrated"):
        calibration([1.0, 2.0]).rule("entropy", 0.01)
    with pytest.raises(InputError, match=r"rate of false alarms is 1\.5"):
        calibration([1.0, 2.0]).rule("log_prob_min", 1.5)
