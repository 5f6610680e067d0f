"""The committed report says what the committed results and expectations say."""

import re

import pytest

from scmf.core.config.recipe import load_recipe
from scmf.experiments.reproduce import judged
from scmf.results.expected import load_expected
from scmf.results.ledger import read_results
from scmf.results.pages.table import VERDICTS, number, table_rows, tally
from tests import ROOT

NAMES = ("geneformer", "scgpt", "scfoundation", "transcriptformer")


@pytest.fixture(scope="module", params=NAMES)
def recipe(request):
    """A recipe with its embedded variant."""
    return load_recipe(request.param, variant="mini")


@pytest.fixture(scope="module")
def rows(recipe):
    """Rows of the page, judged again from the files.

    The seed that ran first stands in the command of the methods without a seed, which are scored with it.
    """
    filed = read_results(ROOT / "leaderboard" / "results", recipe.name, variant="mini")
    results = [result for result in filed if result.command.startswith("scmf reproduce")]  # others are of the suite
    (digest,) = {result.recipe_digest for result in results}
    if recipe.digest != digest:
        pytest.skip("the recipe has changed since the results were filed: they are stale until it runs again")
    first = {int(seed) for r in results if r.seed is None for seed in re.findall(r"--seeds (\d+)", r.command)} or {0}
    expected = load_expected(recipe.folder / "expected.yaml")
    verdicts = judged(expected, results, recipe, first_seed=first.pop())
    return table_rows(results=results, expected=expected, verdicts=verdicts)


def test_every_verdict_and_band_of_the_page_follows_from_the_files(recipe, rows):
    page = (ROOT / "reports" / f"{recipe.name}.md").read_text(encoding="utf-8")
    said = ", ".join(f"{count} {VERDICTS[kind]}" for kind, count in tally(rows).items())
    assert f"Verdicts: {said}." in page
    lines = [line.split(" | ") for line in page.splitlines() if re.match(r"\| \S+ [↑↓] \|", line)]
    shown = [(line[0][2:-2].replace("\\", ""), line[1], line[7], line[8].partition(" (")[0]) for line in lines]
    assert shown == [
        (row["metric"], row["protocol"].replace("_", " "), number(row["band"]), VERDICTS[row["verdict"]])
        for row in rows
    ]


def test_a_number_that_needed_three_seeds_reads_close(recipe, rows):
    if recipe.name != "transcriptformer":
        pytest.skip("TranscriptFormer's report holds such a number")
    names = ("metric", "protocol", "method")
    close = [tuple(row[name] for name in names) for row in rows if row["verdict"] == "close"]
    assert close == [("accuracy", "finetuned_head", "untrained")]
