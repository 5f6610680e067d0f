"""The leaderboard of the repository is what its result files say, to the byte, and holds what it promises."""

import shutil

import pytest

from scmf.core.config.recipe import list_recipes
from scmf.evaluation.tasks import load_suite
from scmf.experiments.leaderboard import compare_measured
from scmf.results.ledger import read_results
from tests import ROOT

LEADERBOARD = ROOT / "leaderboard"


@pytest.fixture(scope="module")
def results():
    return read_results(LEADERBOARD / "results")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The leaderboard made anew from the committed results, pictures of equal numbers taken over."""
    out = tmp_path_factory.mktemp("leaderboard")
    shutil.copytree(LEADERBOARD / "plots", out / "plots")
    leaderboard = compare_measured(
        [str(ROOT / "recipes" / name) for name in list_recipes()], results_dir=LEADERBOARD / "results", out=out
    )
    return out, leaderboard


@pytest.mark.parametrize("name", ["index.html", "README.md", "leaderboard.csv", "leaderboard.json"])
def test_a_page_made_anew_is_the_committed_one_to_the_byte(written, name):
    assert (written[0] / name).read_bytes() == (LEADERBOARD / name).read_bytes(), (
        "run `scmf compare recipes/*` and commit"
    )


def test_pictures_are_those_of_the_committed_numbers(written):
    ours, committed = ({p.name: p.read_bytes() for p in (f / "plots").glob("*.png")} for f in (written[0], LEADERBOARD))
    assert ours == committed


def test_the_recipes_the_baselines_and_the_official_embeddings_stand_in_it(written, results):
    found = {(r.recipe, r.variant, r.dataset, r.split, r.benchmark) for r in results}
    for recipe in list_recipes():
        assert (recipe, "mini", "pancreas", "donor", "annotation") in found
    assert ("transcriptformer", "sapiens", "sinoatrial", "random", "annotation") in found
    for name, task in load_suite().tasks.items():
        assert ("baselines", "reference", task.dataset, task.split, task.benchmark) in found, name
    tables = {table.id for table in written[1].leaderboard.tables}
    assert "annotation.sinoatrial.random.linear_probe" in tables and len(tables) > 30


def test_no_result_was_measured_by_code_that_was_not_committed(results):
    for result in results:
        assert result.provenance["git"]["dirty"] is False, result.path
        assert "/tmp/" not in result.command and "/work/" not in result.command, result.path
