"""The leaderboard's tables and files: merging, marks, leaks, absences, equal bytes, no heavy imports."""

import csv
import json
import subprocess
import sys

import pytest

from scmf.board import compare_measured, known_leaks
from scmf.errors import ConfigError
from scmf.report.leaderboard import build_leaderboard, write_leaderboard
from scmf.report.leaderboard_table import tables
from scmf.results import write_result
from tests.leaderboard_pages import ledger, result

LEAKS = known_leaks()


@pytest.fixture
def probe():
    """The table of the linear probe."""
    return next(t for t in tables(ledger(), leaks=LEAKS, verdicts={}) if t.protocol == "linear_probe")


def row(table, name):
    return next(row for row in table.rows if name in row.name)


def test_a_baseline_that_several_recipes_measured_is_one_row(probe):
    assert [r.name for r in probe.rows].count("HVG") == 1
    assert row(probe, "HVG").recipes == ("geneformer", "scgpt")
    assert len({r.name for r in probe.rows}) == len(probe.rows)


def test_the_best_is_marked_and_what_cannot_be_told_from_it(probe):
    assert row(probe, "HVG").entries["accuracy"].mark == "best"
    assert row(probe, "scgpt mini").entries["accuracy"].mark == "not distinguishable"
    assert row(probe, "leaky").entries["accuracy"].mark == "worse"
    assert row(probe, "shuffled").entries["accuracy"].mark == ""
    assert "simple baseline wins: HVG" in probe.sentence and "scgpt mini, pretrained" in probe.sentence


def test_seeds_give_a_mean_with_the_interval_of_student(probe):
    entry = row(probe, "geneformer mini").entries["accuracy"]
    assert entry.estimate.value == pytest.approx(0.81) and set(entry.seeds) == {"0", "1", "2"}
    assert "3 seeds" in entry.span[2] and entry.span[0] < 0.81 < entry.span[1]


def test_majority_stands_in_the_tables_of_the_same_test_cells(probe):
    assert row(probe, "majority").entries["accuracy"].estimate.value == 0.2
    assert all(table.protocol != "constant" for table in tables(ledger(), leaks=LEAKS, verdicts={}))


def test_leaks_are_marked(probe):
    assert row(probe, "leaky").leak[0] == "leak" and "another split" in row(probe, "leaky").leak[1]
    assert row(probe, "geneformer").leak[0] == "own"
    official = result("official", recipe="transcriptformer", variant="sapiens", corpora=("CELLxGENE Discover",))
    stranger = result("official", recipe="other", variant="v", corpora=("Somewhere",), tier="published")
    found = tables([official, stranger], leaks=LEAKS, verdicts={})[0]
    assert {r.recipes[0]: r.leak[0] for r in found.rows} == {"transcriptformer": "leak", "other": "unknown"}


def test_a_mean_over_an_incomplete_set_does_not_exist():
    from scmf.results import Absence

    failed = result(
        "pretrained", seed=1, metrics={}, definitions={}, higher_is_better={},
        absence=Absence(kind="failed", reason="out of memory"),
    )  # fmt: skip
    found = tables([result("pretrained"), failed], leaks=LEAKS, verdicts={})[0].rows[0]
    assert not found.entries and found.absence == "out of memory"


def test_a_ceiling_is_never_best_and_subgroups_are_no_columns():
    table = next(t for t in tables(ledger(), leaks=LEAKS, verdicts={}) if t.benchmark == "perturbation")
    assert row(table, "ceiling").entries["pearson_delta"].mark == ""
    assert row(table, "train mean").entries["pearson_delta"].mark == "best"
    assert row(table, "train mean").entries["mse_top20"].mark == "best"
    assert all("." not in name for name in table.metrics) and "pearson_delta.seen1" in table.rows[0].entries
    assert table.rows[-1].method == "ceiling"


def test_ranks_are_over_complete_sets():
    board = build_leaderboard(ledger(), leaks=LEAKS, expected={}, verdicts={})
    block = next(block for block in board.summary if block["benchmark"] == "annotation")
    assert all(row["rank"] is None for row in block["rows"])  # one table has no rank of its own
    pairs = (("pretrained", 0.3), ("untrained", 0.2))
    more = [result(m, protocol="knn_probe", metrics={"accuracy": v}) for m, v in pairs]
    block = build_leaderboard([*ledger(), *more], leaks=LEAKS, expected={}, verdicts={}).summary[0]
    ranks = {row["name"]: row["rank"] for row in block["rows"]}
    assert ranks["geneformer mini, pretrained"] == 1 and ranks["HVG"] is None


def test_files_are_equal_to_the_byte_and_hold_every_number(tmp_path):
    board = build_leaderboard(ledger(), leaks=LEAKS, expected={}, verdicts={})
    again = build_leaderboard(ledger()[::-1], leaks=LEAKS, expected={}, verdicts={})
    first, second = write_leaderboard(tmp_path / "a", board), write_leaderboard(tmp_path / "b", again)
    assert [p.name for p in first] == [p.name for p in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    drawn = {path: path.stat().st_mtime_ns for path in first if path.suffix == ".png"}
    assert len(drawn) >= 2
    write_leaderboard(tmp_path / "a", board)
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn  # the same numbers are not drawn again
    lines = list(csv.DictReader((tmp_path / "a" / "leaderboard.csv").open()))
    assert {"pearson_delta.seen1", "accuracy", "epr"} <= {line["metric"] for line in lines}
    value = json.loads((tmp_path / "a" / "leaderboard.json").read_text())
    assert value["absences"] == [
        {
            "method": "geneformer mini",
            "where": "perturbation on norman, split gears",
            "reason": "it gives no predicted cells",
        }
    ]
    text = (tmp_path / "a" / "README.md").read_text()
    assert "*HVG*" in text and "simple baseline wins" in text and "leaky mini, pretrained †" in text
    page = (tmp_path / "a" / "index.html").read_text()
    assert "http://" not in page and "https://" not in page.split("What papers say")[0]


def test_pictures_without_data_are_named_and_old_ones_go(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "old.png").write_bytes(b"")
    write_leaderboard(tmp_path, build_leaderboard([result("pretrained")], leaks={}, expected={}, verdicts={}))
    assert not (tmp_path / "plots" / "old.png").exists()
    assert "no gene network scores" in (tmp_path / "index.html").read_text()


def test_compare_takes_recipes_and_runs_and_imports_nothing_heavy(tmp_path):
    for one in ledger():
        if one.recipe != "leaky":
            write_result(tmp_path / "ledger", one)
    code = (
        "import sys; sys.argv = ['scmf', 'compare', 'geneformer', 'scgpt', 'scfoundation', 'transcriptformer', "
        f"'--ledger', {str(tmp_path / 'ledger')!r}, '--out', {str(tmp_path / 'out')!r}, '--quiet']\n"
        "from scmf.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code in (0, None), stop.code\n"
        "heavy = {'torch', 'anndata', 'scanpy', 'pandas', 'transformers', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HVG" in done.stdout and (tmp_path / "out" / "index.html").is_file()


def test_a_run_without_results_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="scmf evaluate"):
        compare_measured([str(tmp_path / "run")], ledger=tmp_path / "ledger", out=tmp_path / "out")
    write_result(tmp_path / "run" / "results", result("pretrained"))
    board = compare_measured([str(tmp_path / "run")], ledger=tmp_path / "ledger", out=tmp_path / "out")
    assert [t.title for t in board.leaderboard.tables] == ["Annotation on pancreas, split donor: linear probe"]
    with pytest.raises(ConfigError, match="did you mean 'geneformer'"):
        compare_measured(["genformer"], ledger=tmp_path / "ledger", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no result of scgpt"):
        compare_measured(["scgpt"], ledger=tmp_path / "ledger", out=tmp_path / "out")
