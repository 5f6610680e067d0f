"""The judge against values worked out by hand and by scipy; the ledger of files."""

import json
import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, EvaluationError
from scmf.results.judge import band, judge
from scmf.results.ledger import read_results, write_result
from scmf.results.result import Absence, Result

DIGEST = "0e" * 32
FIVE = [0.90, 0.92, 0.91, 0.93, 0.89]  # mean .91, sd sqrt(.00025)


def result(value=0.9, *, seed=0, **changes):
    metrics = {} if value is None else {"macro_f1": value}
    fields = {
        "recipe": "geneformer", "variant": "mini", "tier": "mini", "benchmark": "annotation",
        "dataset": "pancreas", "split": "donor", "protocol": "linear_probe", "method": "pretrained",
        "seed": seed, "metrics": metrics, "definitions": {"macro_f1": "sklearn f1_score(average='macro')"},
        "higher_is_better": {"macro_f1": True}, "recipe_digest": DIGEST,
        "provenance": {"git": {"commit": "12e45678", "dirty": False}, "packages": {"numpy": "2.4.6"}},
        "command": "scmf reproduce geneformer",
    }  # fmt: skip
    return Result(**{**fields, **changes})


# --- the judge ------------------------------------------------------------------------------------


def test_band_equals_the_formula_worked_out_by_hand():
    # t(.975, 4) = 2.776445, sd = .0158114, sqrt(1/5 + 1/1) = 1.095445
    assert band(FIVE, 1, min_band=0.0, alpha=0.05) == pytest.approx(2.776445 * 0.0158114 * 1.095445, rel=1e-5)
    # t(.995, 4) = 4.604095, sqrt(1/5 + 1/3) = .730297
    assert band(FIVE, 3, min_band=0.0, alpha=0.01) == pytest.approx(4.604095 * 0.0158114 * 0.730297, rel=1e-5)
    assert band(FIVE, 3, min_band=0.2, alpha=0.01) == 0.2


def test_band_is_the_prediction_interval_of_the_two_sample_t_test():
    # With one observed value the pooled variance is that of the expected samples: p = .05 at the band's edge.
    edge = statistics.mean(FIVE) + band(FIVE, 1, min_band=0.0, alpha=0.05)
    n = len(FIVE)
    t = (edge - statistics.mean(FIVE)) / (np.std(FIVE, ddof=1) * math.sqrt(1 / n + 1))
    assert 2 * scipy.stats.t.sf(t, n - 1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("observed", "kind", "alpha", "undecided"),
    [
        ([0.95], "match", 0.05, False),  # delta .040, band(.05, 1) = .0481
        ([0.97], "off_up", 0.05, True),  # delta .060: two more seeds
        ([0.85, 0.85], "off_down", 0.05, True),  # band(.05, 2) = .0367
        ([0.94, 0.94, 0.94], "match", 0.05, False),  # delta .030, band(.05, 3) = .0321
        ([0.97, 0.95, 0.96], "close", 0.01, False),  # delta .050, band(.01, 3) = .0532
        ([0.97, 0.97, 0.97], "off_up", 0.01, False),
        ([0.85, 0.85, 0.85], "off_down", 0.01, False),
    ],
)
def test_verdict_follows_the_two_stages(observed, kind, alpha, undecided):
    verdict = judge(FIVE, observed, min_band=0.001)
    assert (verdict.kind, verdict.alpha, verdict.undecided) == (kind, alpha, undecided)
    assert verdict.needs_more_seeds == (3 - len(observed) if undecided else 0)
    assert verdict.ok is (kind in ("match", "close"))


def test_three_seeds_make_no_match_of_a_first_look_that_missed():
    three = [0.97, 0.90, 0.92]  # delta .020 of the mean; the first alone .060, band(.05, 1) = .0481
    assert judge(FIVE, three, min_band=0.001).kind == "match"
    verdict = judge(FIVE, three, min_band=0.001, first_look_missed=True)
    assert (verdict.kind, verdict.alpha, verdict.undecided) == ("close", 0.01, False)
    assert verdict.band == band(FIVE, 3, min_band=0.001, alpha=0.01)


def test_after_a_missed_first_look_two_seeds_do_not_decide_and_far_is_still_off():
    two = judge(FIVE, [0.97, 0.86], min_band=0.001, first_look_missed=True)
    assert (two.undecided, two.needs_more_seeds, two.ok) == (True, 1, False)
    assert judge(FIVE, [0.97] * 3, min_band=0.001, first_look_missed=True).kind == "off_up"


def test_better_than_expected_is_off_too():
    assert judge(FIVE, [0.99] * 3, min_band=0.001).kind == "off_up"


def test_fewer_than_five_expected_samples_are_not_judged():
    verdict = judge(FIVE[:4], [0.91], min_band=0.5)
    assert (verdict.kind, verdict.reason, verdict.ok) == ("missing", "fewer than 5 expected samples (4)", False)


def test_deterministic_method_is_judged_by_the_floor_alone():
    inside = judge([0.70], [0.7005], min_band=0.001, deterministic=True)
    outside = judge([0.70], [0.69], min_band=0.001, deterministic=True)
    assert (inside.kind, inside.band, inside.alpha) == ("match", 0.001, None)
    assert (outside.kind, outside.undecided) == ("off_down", False)


def test_equal_samples_match_even_without_a_floor():
    assert judge([0.1] * 7, [0.1] * 3, min_band=0.0).delta == 0.0
    assert judge([0.1] * 7, [0.1] * 3, min_band=0.0).kind == "match"


@pytest.mark.parametrize(("expected", "min_band"), [([math.nan] * 5, 0.1), ([math.inf] * 5, 0.1), (FIVE, -0.1)])
def test_judge_refuses_what_cannot_be_judged(expected, min_band):
    with pytest.raises(EvaluationError, match="finite"):
        judge(expected, [0.5], min_band=min_band)


scores = st.integers(-1000, 1000).map(lambda i: i / 1000)
MIRROR = {"off_up": "off_down", "off_down": "off_up"}


@given(st.lists(scores, min_size=5, max_size=12), st.lists(scores, min_size=1, max_size=4), st.floats(0, 0.1))
def test_verdict_is_symmetric_under_a_change_of_sign(expected, observed, min_band):
    one = judge(expected, observed, min_band=min_band)
    other = judge([-x for x in expected], [-x for x in observed], min_band=min_band)
    assert other.kind == MIRROR.get(one.kind, one.kind)
    assert (other.band, other.delta, other.undecided) == (one.band, -one.delta, one.undecided)


@given(st.lists(scores, min_size=5, max_size=12), st.integers(1, 4), st.floats(0, 0.1), st.floats(1, 10))
def test_more_spread_never_narrows_the_band(expected, n, min_band, factor):
    center = statistics.mean(expected)
    wider = [center + factor * (x - center) for x in expected]
    assert band(wider, n, min_band=min_band, alpha=0.05) >= band(expected, n, min_band=min_band, alpha=0.05) - 1e-12


@given(st.lists(scores, min_size=5, max_size=12), st.integers(1, 4), st.floats(0, 0.1))
def test_the_second_look_is_wider_and_the_floor_is_the_least(expected, n, min_band):
    first, second = (band(expected, n, min_band=min_band, alpha=alpha) for alpha in (0.05, 0.01))
    assert second >= first >= min_band


@given(st.lists(scores, min_size=5, max_size=12), scores, st.floats(0, 0.1))
def test_a_value_outside_on_the_first_look_is_never_final(expected, value, min_band):
    verdict = judge(expected, [value], min_band=min_band)
    assert verdict.undecided is (verdict.kind != "match")
    assert verdict.needs_more_seeds == (2 if verdict.undecided else 0)


def test_false_alarms_come_at_the_promised_rate():
    rng = np.random.default_rng(0)
    runs = [rng.normal(size=11) for _ in range(2000)]
    alarms = sum(judge(run[:10], run[10:], min_band=0.0).kind != "match" for run in runs)
    assert 0.035 < alarms / 2000 < 0.065


# --- result and ledger ----------------------------------------------------------------------------


def test_ledger_gives_back_what_was_filed_in_order(tmp_path):
    filed = [result(0.1 + seed / 3, seed=seed) for seed in (10, 2, 0)]
    filed += [result(np.float32(0.5), seed=None, method="majority"), result(variant="other"), result(recipe="scgpt")]
    filed.append(result(None, seed=3, absence=Absence(kind="failed", reason="killed")))
    for one in filed:
        path = write_result(tmp_path, one)
    assert path.relative_to(tmp_path).as_posix() == (
        "geneformer/mini/pancreas.donor/annotation.linear_probe.pretrained.seed3.json"
    )
    found = read_results(tmp_path, "geneformer", variant="mini")
    assert [one.seed for one in found] == [None, 0, 2, 3, 10]
    assert all(one in filed for one in found)
    assert len(read_results(tmp_path)) == len(filed)
    assert read_results(tmp_path / "nowhere") == []


def test_measuring_again_replaces_the_file(tmp_path):
    write_result(tmp_path, result(0.1))
    write_result(tmp_path, result(0.2))
    assert [one.metrics for one in read_results(tmp_path)] == [{"macro_f1": 0.2}]


def broken_json(path):
    path.write_text("{")


def unknown_key(path):
    path.write_text(json.dumps({**result().to_json(), "metrcs": 1}))


def other_version(path):
    path.write_text(json.dumps({**result().to_json(), "schema_version": 3}))


def not_a_number(path):
    path.write_text(json.dumps({**result().to_json(), "metrics": {"macro_f1": math.nan}}))


def another_cell(path):
    path.write_text(json.dumps(result(seed=5).to_json()))


@pytest.mark.parametrize("damage", [broken_json, unknown_key, other_version, not_a_number, another_cell])
def test_broken_file_is_one_clear_error_that_names_it(tmp_path, damage):
    path = write_result(tmp_path, result())
    write_result(tmp_path, result(seed=1))
    damage(path)
    with pytest.raises(ConfigError) as caught:
        read_results(tmp_path)
    assert str(path) in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("-inf")])
def test_metric_that_is_not_finite_is_refused(value):
    with pytest.raises(EvaluationError, match="macro_f1"):
        result(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {}},
        {"metrics": {"macro_f1": "0.9"}},
        {"metrics": {"macro_f1": True}},
        {"definitions": {}},
        {"higher_is_better": {}},
        {"absence": Absence(kind="failed", reason="killed")},
        {"dataset": "../pancreas"},
        {"protocol": "knn.probe"},
    ],
)
def test_incomplete_or_contradictory_result_is_refused(changes):
    with pytest.raises(ValueError, match="validation error"):
        result(**changes)
