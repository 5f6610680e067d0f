"""The regression check on results made by hand: what leaves its band is named first, and silence is no success."""

import json

import pytest

from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError, EvaluationError
from scmf.experiments import reproduce as reproduction
from scmf.experiments.regression import check_all
from scmf.experiments.reproduce import Outcome, judged
from scmf.results.expected import ExpectedCell, MeasuredWith, load_expected, write_expected
from scmf.results.judge import Verdict
from scmf.results.ledger import write_result
from scmf.results.pages.regression import COLUMNS, Check, Checked, Line
from scmf.results.parity import ParityCase
from scmf.results.result import CellKey, Result

SAMPLES = {1: 0.80, 2: 0.81, 3: 0.82, 4: 0.83, 5: 0.84}
MEAN = 0.82


@pytest.fixture
def recipe(toy, tmp_path):
    """The toy with two expected numbers: a stochastic one and one without a seed."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.yaml").write_text((toy / "recipe.yaml").read_text())
    found = load_recipe(str(folder))
    common = {"variant": "tiny", "dataset": "toy", "split": "donor", "benchmark": "annotation", "metric": "accuracy",
              "higher_is_better": True, "min_band": 0.005,
              "measured_with": MeasuredWith(digest=found.digest)}  # fmt: skip
    write_expected(
        folder / "expected.yaml",
        [
            ExpectedCell(protocol="linear_probe", method="pretrained", samples=SAMPLES, **common),
            ExpectedCell(protocol="constant", method="majority", samples={None: 0.25}, **common),
        ],
    )
    return found


def result(recipe, value, *, seed=0, protocol="linear_probe", method="pretrained", metric="accuracy", **other):
    return Result(
        **{
            "recipe": "toy", "variant": "tiny", "tier": "mini", "benchmark": "annotation", "dataset": "toy",
            "split": "donor", "protocol": protocol, "method": method, "seed": seed, "metrics": {metric: value},
            "definitions": {metric: "d"}, "higher_is_better": {metric: True}, "recipe_digest": recipe.digest,
            "provenance": {}, "command": "scmf reproduce toy", **other,
        }
    )  # fmt: skip


def majority(recipe, value=0.25):
    return result(recipe, value, seed=None, protocol="constant", method="majority")


def ledger(root, *results):
    for one in results:
        write_result(root, one)
    return root


def check(recipe, measured, committed):
    return check_all([str(recipe.folder)], measured=measured, committed=committed)


@pytest.fixture
def committed(recipe, tmp_path):
    """A ledger in which all is well."""
    return ledger(tmp_path / "committed", result(recipe, MEAN), majority(recipe))


def test_what_was_measured_again_and_is_the_same_is_fine(recipe, committed):
    found = check(recipe, committed, committed)
    assert found.ok
    assert {line.verdict.kind for line in found.lines} == {"match"}
    assert {line.moved for line in found.lines} == {0.0}
    assert "every number lies in its band" in found.markdown()


def test_a_number_outside_its_band_fails_and_stands_first_with_both_values(recipe, committed, tmp_path):
    now = ledger(tmp_path / "now", *(result(recipe, 0.9, seed=seed) for seed in (0, 100, 101)), majority(recipe))
    found = check(recipe, now, committed)
    first = found.lines[0]
    assert not found.ok
    assert (first.key.method, first.verdict.kind) == ("pretrained", "off_up")
    assert (first.committed, first.now, first.expected) == (MEAN, pytest.approx(0.9), pytest.approx(MEAN))
    assert first.moved == pytest.approx(0.08)
    row = dict(zip(COLUMNS, found.table()[0], strict=True))
    assert (row["committed"], row["now"], row["moved"]) == ("0.8200", "0.9000", "+0.0800")
    assert row["expected"].startswith("0.8200 ± ") and row["verdict"] == "off ↑"
    assert "**a number left its band" in found.markdown()


def test_a_better_number_without_a_seed_is_off_by_its_floor_alone(recipe, committed, tmp_path):
    now = ledger(tmp_path / "now", result(recipe, MEAN), majority(recipe, 0.2551))
    assert [line.verdict.kind for line in check(recipe, now, committed).lines] == ["off_up", "match"]
    within = ledger(tmp_path / "within", result(recipe, MEAN), majority(recipe, 0.2549))
    assert check(recipe, within, committed).ok


def test_a_number_that_is_not_measured_any_more_fails(recipe, committed, tmp_path):
    found = check(recipe, ledger(tmp_path / "now", majority(recipe)), committed)
    assert not found.ok
    assert (found.lines[0].verdict.kind, found.lines[0].committed, found.lines[0].now) == ("missing", MEAN, None)


def test_three_seeds_after_a_missed_first_look_are_close_and_fine(recipe, committed, tmp_path):
    values = {0: 0.87, 100: 0.80, 101: 0.80}
    now = ledger(tmp_path / "now", *(result(recipe, v, seed=s) for s, v in values.items()), majority(recipe))
    found = check(recipe, now, committed)
    assert found.ok and [line.verdict.kind for line in found.lines] == ["close", "match"]


def test_results_of_another_recipe_or_of_none_are_no_success(recipe, committed, tmp_path):
    old = ledger(tmp_path / "old", result(recipe, MEAN, recipe_digest="0" * 64))
    assert {line.verdict.kind for line in check(recipe, old, committed).lines} == {"stale", "missing"}
    (tmp_path / "empty").mkdir()
    found = check(recipe, tmp_path / "empty", committed)
    assert not found.ok and not found.lines
    assert "no results of it" in found.table()[0][-1] and found.summary()[0][1] == "NOT ok"
    assert not Check(()).ok
    assert not Checked("toy", "tiny", absent={"parity": "no oracle"}).ok


def test_results_on_other_cells_under_the_same_recipe_are_not_judged(recipe, committed, tmp_path):
    now = ledger(tmp_path / "now", result(recipe, MEAN), majority(recipe), result(recipe, 0.1, dataset="elsewhere"))
    found = check(recipe, now, committed)
    assert found.ok and len(found.lines) == 2


def test_a_run_goes_into_scratch_folders_and_its_outcome_is_the_check(recipe, committed, tmp_path, monkeypatch):
    seen = {}

    def quick(name, **keywords):
        seen.update(keywords, name=name)
        results = [result(recipe, 0.9), majority(recipe)]
        verdicts = judged(load_expected(recipe.folder / "expected.yaml"), results, recipe)
        case = ParityCase("tok/a", "17 cells", False, float("inf"), 0.0, "row 3")
        return Outcome(recipe, parity=[case], results=results, verdicts=verdicts)

    monkeypatch.setattr(reproduction, "reproduce", quick)
    monkeypatch.chdir(tmp_path)
    found = check_all([str(recipe.folder)], committed=committed)
    assert {str(seen[name]) for name in ("runs", "results_dir", "reports")} == {
        "runs/check/runs", "runs/check/results", "runs/check/reports"
    }  # fmt: skip
    assert not found.ok and not found.recipes[0].failed_cases[0].passed
    assert found.table()[0][1] == "parity tok/a" and "row 3" in found.table()[0][-1]
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["recipes"][0]["parity"]["failed"][0]["difference"] is None
    undecided = found.lines[0]
    assert undecided.verdict.needs_more_seeds == 2 and "2 more seeds decide" in undecided.texts()[-1]


def test_one_recipe_that_cannot_run_does_not_hide_the_others(recipe, committed, monkeypatch):
    def broken(*arguments, **keywords):
        raise EvaluationError("no such cells", wanted="cells")

    monkeypatch.setattr(reproduction, "reproduce", broken)
    found = check_all([str(recipe.folder), str(recipe.folder)], committed=committed)
    assert [one.error for one in found.recipes] == ["no such cells", "no such cells"] and not found.ok


def test_committed_folders_are_never_written_and_a_missing_ledger_is_one_error(recipe, committed, tmp_path):
    with pytest.raises(ConfigError, match="would write into"):
        check_all([str(recipe.folder)], committed=committed, results_dir=committed)
    with pytest.raises(ConfigError, match="no such folder"):
        check(recipe, tmp_path / "nowhere", committed)


def line(delta, kind="match", metric="accuracy"):
    key = CellKey("tiny", "toy", "donor", "annotation", "linear_probe", "pretrained", metric)
    return Line("toy", key, 0.5, 0.5 + delta, 0.5, Verdict(kind, band=0.1, delta=delta))


def test_the_worst_comes_first_and_a_comment_stays_below_the_limit_of_github():
    kinds = ("not_applicable", "match", "off_down", "close", "stale", "off_up", "missing", "failed")
    lines = tuple(line(-0.2 if kind == "off_down" else 0.15, kind) for kind in kinds)
    lines += tuple(line(0.01, metric=f"metric_{i:04d}") for i in range(1500))
    found = Check((Checked("toy", "tiny", lines),))
    order = [one.verdict.kind for one in found.lines]
    assert order[:7] == ["off_down", "off_up", "failed", "missing", "stale", "close", "match"]
    text = found.markdown()
    assert 50_000 < len(text.encode()) < 65_536
    assert "more in the JSON of the check" in text and text.rstrip().endswith("</details>")
    assert len(found.table()) == len(lines) and len(found.table(everything=False)) == 6


def test_comparisons_with_the_official_code_alone_need_no_table_of_numbers():
    case = ParityCase("tok/a", "17 cells", True, 0.0, 0.0)
    text = Check((Checked("toy", "tiny", parity=(case,)),)).markdown()
    assert "every comparison with the official code passed" in text and "parity 1 of 1" in text
    assert "<details>" not in text
