"""Which result belongs to which expectation, and that expected.yaml loses nothing."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.paths import shipped
from scmf.core.yaml import dump_yaml, load_yaml
from scmf.results.expected import (
    Expected,
    ExpectedCell,
    MeasuredWith,
    PublishedValue,
    expected_cells,
    judge_cell,
    judge_results,
    load_expected,
    write_expected,
)
from scmf.results.judge import band, judge
from scmf.results.result import Absence, Result

DIGEST = "0e" * 32  # looks like a number to a careless YAML writer
FIVE = [0.90, 0.92, 0.91, 0.93, 0.89]


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


def cell(samples, *, min_band=0.001, digest=DIGEST):
    return ExpectedCell(
        **result().key("macro_f1")._asdict(),
        higher_is_better=True,
        min_band=min_band,
        samples=samples,
        measured_with=MeasuredWith(digest=digest),
    )


# --- cells ----------------------------------------------------------------------------------------


def test_cell_is_stale_when_the_recipe_changed():
    expected = cell(dict(enumerate(FIVE)), digest="other")
    assert judge_cell(expected, [result()]).kind == "stale"
    fresh = cell(dict(enumerate(FIVE)))
    assert judge_cell(fresh, [result()]).kind == "match"
    assert judge_cell(fresh, [result()], recipe_digest="newer").kind == "stale"
    assert judge_cell(fresh, [result(), result(seed=1, recipe_digest="old")], recipe_digest=DIGEST).kind == "stale"


@pytest.mark.parametrize("kind", ["missing", "failed", "not_applicable"])
def test_one_absent_seed_makes_the_cell_absent_with_its_reason(kind):
    absent = result(None, seed=1, absence=Absence(kind=kind, reason="no memory left"))
    verdict = judge_cell(cell(dict(enumerate(FIVE))), [result(), absent])
    assert (verdict.kind, verdict.reason, verdict.delta) == (kind, "seed 1: no memory left", None)


def test_a_first_seed_that_missed_alone_makes_three_seeds_close_at_best():
    expected = cell(dict(enumerate(FIVE, start=1)))
    results = [result(value, seed=seed) for seed, value in {0: 0.97, 100: 0.90, 101: 0.92}.items()]
    assert judge_cell(expected, results).kind == "match"
    assert judge_cell(expected, results, first_seed=0).kind == "close"
    assert judge_cell(expected, results, first_seed=100).kind == "match", "that one lay inside"
    assert judge_cell(expected, results[:1], first_seed=0).undecided


def test_a_seed_that_is_an_expected_sample_is_not_held_against_itself():
    samples = dict(enumerate(FIVE, start=1))
    verdict = judge_cell(cell(samples), [result(FIVE[0], seed=1)])
    alone = judge(FIVE[1:], FIVE[:1], min_band=0.001)
    assert (verdict.kind, verdict.n_exp, verdict.delta) == ("match", 4, FIVE[0] - statistics.mean(FIVE[1:]))
    assert verdict.band == band(FIVE[1:], 1, min_band=0.001, alpha=0.05)
    assert verdict.reason == "without the expected sample of seed 1"
    assert alone.kind == "missing", "four samples are too few where none was left out"
    two = judge_cell(cell(samples), [result(FIVE[0], seed=1), result(FIVE[1], seed=2)])
    assert (two.kind, two.ok) == ("missing", False) and "2 of the seeds are expected samples" in two.reason


def test_cell_without_result_or_metric_is_missing():
    expected = cell(dict(enumerate(FIVE)))
    assert judge_cell(expected, []).reason == "not measured"
    assert judge_cell(expected, [result(method="untrained")]).kind == "missing"
    other = result(metrics={"f": 1.0}, definitions={"f": "x"}, higher_is_better={"f": True})
    assert judge_cell(expected, [other]).reason == "seed 0: the result has no such metric"


def test_number_without_expectation_is_missing_but_not_in_the_published_tier():
    kinds = {
        tier: [verdict.kind for verdict in judge_results(Expected(), [result(tier=tier)]).values()]
        for tier in ("mini", "published")
    }
    assert kinds == {"mini": ["missing"], "published": ["not_applicable"]}


# --- expected.yaml --------------------------------------------------------------------------------


def published(**changes):
    fields = {
        "id": "m1", "model": "6L", "task": "annotation", "dataset": "spleen", "split": "1e5", "metric": "accuracy",
        "value": 0.991567, "level": "B", "source": "owner/repo @12e45", "comparable": "No: other cells.",
    }  # fmt: skip
    return PublishedValue(**{**fields, **changes})


def test_recorded_samples_come_back_to_the_last_bit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 1e-17, 5e22, math.pi]
    results = [result(x, seed=seed) for seed, x in enumerate(values)]
    results.append(result(2 / 3, seed=None, method="majority"))
    path = write_expected(tmp_path / "expected.yaml", expected_cells(results, min_bands={"macro_f1": 0.01}))
    found = load_expected(path).cells()
    assert found[result().key("macro_f1")].samples == dict(enumerate(values))
    baseline = found[results[-1].key("macro_f1")]
    assert (baseline.samples, baseline.deterministic) == ({None: 2 / 3}, True)
    assert baseline.measured_with == MeasuredWith(
        digest=DIGEST, commit="12e45678", dirty=False, packages={"numpy": "2.4.6"}
    )
    assert judge_cell(found[result().key("macro_f1")], results).reason == "these are the expected samples themselves"
    assert judge_cell(baseline, results).kind == "match"


def test_recording_keeps_published_values_and_other_variants(tmp_path):
    path = tmp_path / "expected.yaml"
    other = cell({0: 0.5}).model_copy(update={"variant": "other"})
    gone = cell({0: 0.5}).model_copy(update={"metric": "gone"})
    write_expected(path, [other, gone], published=[published()])
    write_expected(path, [cell(dict(enumerate(FIVE)))])
    found = load_expected(path)
    assert found.published == (published(),)
    assert {(c.variant, c.metric) for c in found.mini} == {("mini", "macro_f1"), ("other", "macro_f1")}


def test_writing_twice_gives_equal_bytes(tmp_path):
    cells = [cell(dict(enumerate(FIVE)))]
    first = write_expected(tmp_path / "a.yaml", cells, published=[published()]).read_bytes()
    assert write_expected(tmp_path / "a.yaml", cells).read_bytes() == first


def test_record_refuses_mixed_programs_absent_seeds_and_unknown_floors():
    with pytest.raises(EvaluationError, match="different recipes"):
        expected_cells([result(), result(seed=1, recipe_digest="other")], min_bands={"macro_f1": 0.01})
    with pytest.raises(EvaluationError, match="killed"):
        expected_cells([result(None, absence=Absence(kind="failed", reason="killed"))], min_bands={})
    with pytest.raises(EvaluationError, match="no min_band for 'macro_f1'"):
        expected_cells([result()], min_bands={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minni: []", "did you mean 'mini'"),
        ("[]", "not a mapping"),
        ("published: [{id: x}]", "is missing"),
    ],
)
def test_expected_file_with_a_mistake_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "expected.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_expected(path)
    assert str(path) in str(caught.value)


def test_cell_or_id_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stands twice"):
        Expected(mini=(cell({0: 1.0}), cell({1: 1.0})))
    with pytest.raises(ValueError, match="m1 stands twice"):
        Expected(published=(published(), published()))


@pytest.mark.parametrize("samples", [{}, {None: 0.5, 0: 0.5}])
def test_samples_are_of_one_kind(samples):
    with pytest.raises(ValueError, match="samples"):
        cell(samples)


def test_shipped_expectations_have_source_level_and_comparability():
    found = load_expected(shipped("recipes") / "geneformer" / "expected.yaml")
    assert len(found.published) >= 50
    for value in found.published:
        assert value.source and value.comparable and value.level in ("A", "A-derived", "B", "C")
    by_id = {value.id: value.value for value in found.published}
    # Accuracy of a confusion matrix that the official notebook prints: trace over total.
    matrix = np.array([[3794, 385, 328], [562, 8680, 566], [13, 485, 2415]])
    assert by_id["m025"] == matrix.trace() / matrix.sum()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=12)
    | st.sampled_from(["no", "1e5", "1e-4", "0o17", "012", "0x1F", ".5", "-", "~", "null", "True", "12:30"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(plain)
def test_yaml_we_write_reads_back_equal(value):
    assert load_yaml(dump_yaml(value)) == value
