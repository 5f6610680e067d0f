"""The leaderboard's files: equal bytes, every number in them, nothing heavy imported, empty boards."""

import csv
import json
import random
import subprocess
import sys

import pytest

from scmf.core.errors import ConfigError
from scmf.experiments.leaderboard import compare_measured, known_leaks
from scmf.results.expected import Expected, PublishedValue
from scmf.results.ledger import write_result
from scmf.results.pages.leaderboard import build_leaderboard, facts_of, write_leaderboard
from tests.fixtures.leaderboard_pages import ledger, result

LEAKS = known_leaks()


def board_of(results, **more):
    return build_leaderboard(results, leaks=LEAKS, **{"expected": {}, "verdicts": {}, **more})


def test_files_are_equal_to_the_byte_and_hold_every_number(tmp_path):
    shuffled = ledger()
    random.Random(1).shuffle(shuffled)
    first = write_leaderboard(tmp_path / "a", board_of(ledger()))
    second = write_leaderboard(tmp_path / "b", board_of(shuffled))
    assert [p.name for p in first] == [p.name for p in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
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
    probe = next(table for table in value["tables"] if table["protocol"] == "linear_probe")
    row = next(row for row in probe["rows"] if row["name"] == "geneformer mini, pretrained")
    assert row["metrics"]["accuracy"]["seeds"] == pytest.approx({"0": 0.8, "1": 0.81, "2": 0.82})
    assert probe["definitions"]["accuracy"] == "a definition" and row["measured"] and row["environment"]


def test_the_readme_holds_the_tables_with_intervals_and_marks(tmp_path):
    write_leaderboard(tmp_path, board_of(ledger()))
    text = (tmp_path / "README.md").read_text()
    assert "*HVG*" in text and "simple baseline wins" in text and "leaky mini, pretrained †" in text
    assert "**0.8600** \\*<br><sub>0.8400 – 0.8800</sub>" in text and "](plots/" in text
    lines = text.splitlines()
    for head in [i for i, line in enumerate(lines) if line.startswith("|---")]:  # every table has a straight right edge
        rows = []
        while head < len(lines) and lines[head].startswith("|"):
            rows.append(lines[head].count("|"))
            head += 1
        assert len(rows) > 1 and set(rows) == {lines[head - len(rows) - 1].count("|")}


def test_the_page_stands_alone_and_texts_cannot_become_markup(tmp_path):
    evil = result("pretrained", command="scmf </script><script>alert(1)</script> & <b>x</b>")
    write_leaderboard(tmp_path, board_of([*ledger(), evil.model_copy(update={"recipe": "evil"})]))
    page = (tmp_path / "index.html").read_text()
    assert "http://" not in page and "https://" not in page and 'src="//' not in page
    assert "alert(1)</script>" not in page and "&lt;/script&gt;&lt;script&gt;alert(1)" in page


def test_published_values_stand_apart(tmp_path):
    value = PublishedValue(
        id="m1", model="Big | model", task="annotation", dataset="pancreas", split="theirs", metric="accuracy",
        value=0.99, level="C", source="the paper", comparable="other cells",
    )  # fmt: skip
    board = board_of([result("pretrained")], expected={"geneformer": Expected(published=(value,))})
    write_leaderboard(tmp_path, board)
    page = (tmp_path / "index.html").read_text()
    assert "never ranked with ours" in page and "Big | model" in page.split("What papers say")[1]
    assert all("0.99" not in str(table.rows) for table in board.tables)
    assert json.loads((tmp_path / "leaderboard.json").read_text())["published"]["geneformer"][0]["value"] == 0.99


def test_each_fact_of_a_row_stands_once():
    first, second = result("pretrained"), result("pretrained", seed=1, command="scmf other")
    (table,) = board_of([first, second]).tables
    facts = facts_of(table.rows[0])
    assert facts["command"] == [first.command, "scmf other"] and len(facts["measured"]) == 1
    bare = board_of([result("pretrained", provenance={})]).tables[0].rows[0]
    assert "unknown" in facts_of(bare)["measured"][0] and "packages unknown" in facts_of(bare)["environment"][0]


def test_a_board_without_results_is_a_page_that_says_so(tmp_path):
    pages = write_leaderboard(tmp_path, board_of([]))
    assert (
        "Nothing has been measured yet" in pages[0].read_text() and "Nothing has been measured" in pages[1].read_text()
    )


def test_compare_takes_recipes_and_runs_and_imports_nothing_heavy(tmp_path):
    for one in ledger():
        if one.recipe != "leaky":
            write_result(tmp_path / "ledger", one)
    code = (
        "import sys; sys.argv = ['scmf', 'compare', 'geneformer', 'scgpt', 'scfoundation', 'transcriptformer', "
        f"'--results', {str(tmp_path / 'ledger')!r}, '--out', {str(tmp_path / 'out')!r}, '--quiet']\n"
        "from scmf.cli.main import main\n"
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
        compare_measured([str(tmp_path / "run")], results_dir=tmp_path / "ledger", out=tmp_path / "out")
    write_result(tmp_path / "run" / "results", result("pretrained"))
    board = compare_measured([str(tmp_path / "run")], results_dir=tmp_path / "ledger", out=tmp_path / "out")
    assert [t.title for t in board.leaderboard.tables] == ["Annotation on pancreas, split donor: linear probe"]
    with pytest.raises(ConfigError, match="did you mean 'geneformer'"):
        compare_measured(["genformer"], results_dir=tmp_path / "ledger", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no result of scgpt"):
        compare_measured(["scgpt"], results_dir=tmp_path / "ledger", out=tmp_path / "out")
