"""Tables of the leaderboard: merging, marks, leaks, absences, and sentences that claim no more than was compared."""

import random

import pytest

from scmf.experiments.leaderboard import known_leaks
from scmf.results.judge import Verdict
from scmf.results.pages.leaderboard_rows import words
from scmf.results.pages.leaderboard_tables import tables
from scmf.results.result import Absence
from tests.fixtures.leaderboard_pages import ledger, result

LEAKS = known_leaks()
BASE = {"recipe": "baselines", "variant": "reference", "seed": None}


def build(results, verdicts=None):
    return tables(results, leaks=LEAKS, verdicts=verdicts or {})


def one(*results, **more):
    """The only table of these results."""
    (table,) = build(results, **more)
    return table


@pytest.fixture
def probe():
    """The table of the linear probe."""
    return next(t for t in build(ledger()) if t.protocol == "linear_probe")


def row(table, name):
    return next(row for row in table.rows if name in row.name)


def test_a_baseline_that_several_recipes_measured_is_one_row(probe):
    assert [r.name for r in probe.rows].count("HVG") == 1
    assert row(probe, "HVG").recipes == ("geneformer", "scgpt")
    assert len({r.name for r in probe.rows}) == len(probe.rows)


def test_a_baseline_that_came_out_differently_is_two_rows_that_say_so():
    pair = [result("pca", recipe=name, seed=None, metrics={"accuracy": v}) for name, v in (("a", 0.5), ("b", 0.6))]
    assert [r.name for r in one(*pair).rows] == ["PCA [with b]", "PCA [with a]"]


def test_equal_baselines_with_other_metrics_beside_are_one_row_with_all_of_them():
    pair = [
        result("pca", recipe="a", seed=None, metrics={"accuracy": 0.5}),
        result("pca", recipe="b", seed=None, metrics={"accuracy": (0.5, 0.4, 0.6), "macro_f1": 0.3}),
    ]
    key = pair[0].key("accuracy")
    (found,) = one(*pair, verdicts={("a", key): Verdict("off_up")}).rows
    assert set(found.entries) == {"accuracy", "macro_f1"} and found.entries["accuracy"].span[:2] == (0.4, 0.6)
    assert found.verdict == "off_up" and found.recipes == ("a", "b")


def test_runs_with_other_settings_are_other_rows_and_not_other_seeds():
    table = one(
        result("pretrained", metrics={"accuracy": 0.5}),
        result("pretrained", seed=1, metrics={"accuracy": 0.6}, recipe_digest="e" * 64),
    )
    assert [r.name for r in table.rows] == [
        "geneformer mini, pretrained [eeeeeeee]", "geneformer mini, pretrained [dddddddd]",
    ]  # fmt: skip


def test_the_best_is_marked_and_what_cannot_be_told_from_it(probe):
    assert row(probe, "HVG").entries["accuracy"].mark == "best"
    assert row(probe, "scgpt mini").entries["accuracy"].mark == "not distinguishable"
    assert row(probe, "leaky").entries["accuracy"].mark == "worse"
    assert row(probe, "shuffled").entries["accuracy"].mark == ""
    assert probe.outcome == "tie" and probe.baseline_first
    assert "simple baseline wins: HVG" in probe.sentence and "scgpt mini, pretrained" in probe.sentence


@pytest.mark.parametrize(
    ("model", "base", "outcome", "said"),
    [
        ((0.9, 0.88, 0.92), (0.5, 0.48, 0.52), "model", "above every baseline"),
        ((0.5, 0.48, 0.52), (0.9, 0.88, 0.92), "baseline", "A simple baseline wins: PCA has the best accuracy, above"),
        ((0.9, 0.8, 1.0), (0.88, 0.78, 0.98), "tie", "No model is shown to beat"),
        (0.9, 0.5, "unknown", "geneformer mini, pretrained has the best accuracy, before PCA; not compared"),
        (0.5, 0.9, "unknown", "A simple baseline is first: PCA"),
        (0.9, 0.9, "tie", "No model is shown to beat"),
    ],
)
def test_the_sentence_claims_what_was_compared(model, base, outcome, said):
    table = one(
        result("pretrained", metrics={"accuracy": model}), result("pca", **BASE, metrics={"accuracy": base}),
        result("shuffled_labels", **BASE, metrics={"accuracy": 0.1}),
    )  # fmt: skip
    assert table.outcome == outcome and said in table.sentence
    assert ("above every" in table.sentence) == (outcome in ("model", "baseline"))


def test_the_sentence_tells_of_chance_leaks_and_untrained_models():
    chance = result("shuffled_labels", **BASE, metrics={"accuracy": 0.7})
    untrained = one(result("untrained", metrics={"accuracy": 0.6}), chance)
    assert "untrained one" in untrained.sentence and "No model is above shuffled labels" in untrained.sentence
    assert "no baseline but chance" in untrained.sentence and untrained.outcome == ""
    leaky = result("pretrained", corpora=("pancreas.study",), metrics={"accuracy": (0.9, 0.89, 0.91)})
    table = one(leaky, result("pca", **BASE, metrics={"accuracy": (0.5, 0.4, 0.6)}))
    assert table.outcome == "leak" and "(leak)" in table.sentence
    assert "baselines only" in one(result("pca", **BASE)).sentence


def test_seeds_give_a_mean_with_the_interval_of_student(probe):
    entry = row(probe, "geneformer mini").entries["accuracy"]
    assert entry.estimate.value == pytest.approx(0.81) and set(entry.seeds) == {"0", "1", "2"}
    assert "3 seeds" in entry.span[2] and entry.span[0] < 0.81 < entry.span[1]
    assert row(probe, "geneformer mini").n_seeds == 3 and row(probe, "HVG").n_seeds == 0


def test_intervals_of_several_seeds_count_against_a_baseline_that_has_one():
    base = result("hvg", seed=None, metrics={"accuracy": (0.80, 0.74, 0.86)})

    def models(*half):
        values = (0.880, 0.881, 0.882)
        return [
            result("pretrained", seed=i, metrics={"accuracy": (v, v - half[0], v + half[0]) if half else v})
            for i, v in enumerate(values)
        ]

    assert one(base, *models()).outcome == "model"
    assert one(base, *models(0.001)).outcome == "model"
    assert one(base, *models(0.06)).outcome == "tie"


def test_majority_stands_in_the_tables_of_the_same_test_cells(probe):
    assert row(probe, "majority").entries["accuracy"].estimate.value == 0.2
    assert all(table.protocol != "constant" for table in build(ledger()))


def test_leaks_are_marked(probe):
    assert row(probe, "leaky").leak[0] == "leak" and "another split" in row(probe, "leaky").leak[1]
    assert row(probe, "geneformer").leak[0] == "own"
    official = result("official", recipe="transcriptformer", variant="sapiens", corpora=("CELLxGENE Discover",))
    stranger = result("official", recipe="other", variant="v", corpora=("Somewhere",), tier="published")
    silent = result("official", recipe="silent", variant="v", tier="published")
    elsewhere = result("pretrained", recipe="elsewhere", corpora=("norman.gears",))
    found = one(official, stranger, silent, elsewhere)
    assert {r.recipes[0]: r.leak[0] for r in found.rows} == {
        "transcriptformer": "leak", "other": "unknown", "silent": "unknown", "elsewhere": "",
    }  # fmt: skip


def test_protocols_that_score_training_cells_too_say_so():
    (held_out,) = one(result("pretrained")).rows
    (folds,) = one(result("pretrained", protocol="cross_validated")).rows
    assert held_out.leak == ("own", "trained on the training part of this split")
    assert folds.leak[0] == "own" and "among the cells scored" in folds.leak[1]
    assert one(result("untrained")).rows[0].leak == ("", "")


def test_a_mean_over_an_incomplete_set_does_not_exist():
    failed = result(
        "pretrained", seed=1, metrics={}, definitions={}, higher_is_better={},
        absence=Absence(kind="failed", reason="out of memory"),
    )  # fmt: skip
    found = one(result("pretrained"), failed).rows[0]
    assert not found.entries and found.absence == "seed 1: out of memory"
    lacks = result("pretrained", seed=1, metrics={"macro_f1": 0.2})
    found = one(result("pretrained", metrics={"accuracy": 0.8, "macro_f1": 0.3}), lacks).rows[0]
    assert set(found.entries) == {"macro_f1"}


def test_a_ceiling_is_never_best_and_subgroups_are_no_columns():
    table = next(t for t in build(ledger()) if t.benchmark == "perturbation")
    assert row(table, "ceiling").entries["pearson_delta"].mark == ""
    assert row(table, "train mean").entries["pearson_delta"].mark == "best"
    assert row(table, "train mean").entries["mse_top20"].mark == "best"
    assert all("." not in name for name in table.metrics) and "pearson_delta.seen1" in table.rows[0].entries
    assert table.rows[-1].method == "ceiling"


def test_tables_do_not_depend_on_the_order_of_results():
    results = ledger()
    random.Random(0).shuffle(results)
    assert build(results) == build(ledger()) == build(ledger()[::-1])


def test_names_are_written_as_the_field_writes_them():
    assert words("knn_probe") == "kNN probe" and words("linear_probe") == "linear probe"
    assert words("dorothea_chip") == "DoRothEA ChIP" and words("") == ""
