"""Leak marks hold for any card and any run: what cells are is decided by content, not by name."""

import json
import shutil

import pytest
import yaml

from scmf.experiments.leaderboard import known_leaks
from scmf.results.pages.leaderboard import build_leaderboard
from scmf.results.result import Result
from tests.cli.test_cli import scmf


@pytest.fixture
def own(toy_env, tmp_path):
    """A card of the user's own with marks, and a suite of one task."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(toy_env / "toy.donor.tsv.gz", folder)
    marks = "part_of:\n  - {corpus: My corpus, contains: 'yes', reason: the cells were added in May}\n"
    (folder / "toy.yaml").write_text((toy_env / "toy.yaml").read_text() + marks)
    task = {"benchmark": "annotation", "dataset": f"{folder / 'toy.yaml'}", "split": "donor", "description": "a toy",
            "protocols": ["linear_probe"]}  # fmt: skip
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": {"types": task}}))
    return folder


CASES = {
    "its split": ((), "own"),
    "all cells of the card": (("data.split=null",), "leak"),
    "all cells of a copy of its file": (("data.files=[{copy}]",), "leak"),
    "its split of a copy of its file": (("data.files=[{copy}]", "data.split={split}"), "own"),
    "all cells, streamed": (("data.split=null", "data.stream={{}}", "eval.benchmarks=[]"), "leak"),
    "another file of the same name": (("data.files=[{other}]",), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_marked_by_the_cells_it_was_trained_on(case, own, toy_env, tmp_path, capsys, monkeypatch):
    overrides, mark = CASES[case]
    (tmp_path / "copy").mkdir()
    names = {
        "copy": tmp_path / "copy/cells.h5ad",
        "other": tmp_path / "copy/toy.h5ad",
        "split": own / "toy.donor.tsv.gz",
    }
    shutil.copy(toy_env / "mirror/toy/toy.h5ad", names["copy"])
    if "{other}" in overrides[-1:][0] if overrides else False:
        import anndata as ad

        ad.read_h5ad(names["copy"])[::2].copy().write_h5ad(names["other"])
    words = [f"--set={text.format(**names)}" for text in overrides]
    if overrides and "data.files" in overrides[0]:
        if len(overrides) == 1:
            words.append("--set=data.split=null")
        words.append("--set=data.label_key=cell_type")
    words += ["--set=training.max_epochs=1", "--set=eval.every_n_epochs=0"]
    code, _, err = scmf(
        capsys, monkeypatch, "train", "--config", toy_env / "recipe.yaml", "--out", tmp_path / "run", "--quiet", *words
    )
    assert code == 0, err
    code, out, err = scmf(
        capsys, monkeypatch, "evaluate", tmp_path / "run", "--tasks", "types", "--suite", own / "suite.yaml", "--json",
        "--quiet",
    )  # fmt: skip
    assert code == 0, err
    found = [Result.from_json(one) for one in json.loads(out)]
    board = build_leaderboard(found, leaks=known_leaks(), expected={}, verdicts={})
    rows = {row.method: row for table in board.tables for row in table.rows}
    assert rows["pretrained"].leak[0] == mark, rows["pretrained"].leak
    assert rows["untrained"].leak == ("", "")


def test_the_marks_of_a_card_of_ones_own_count(own, toy_env, tmp_path, capsys, monkeypatch):
    import anndata as ad
    import numpy as np

    cells = ad.read_h5ad(toy_env / "mirror/toy/toy.h5ad")
    cells.obsm["X"] = np.random.default_rng(0).normal(size=(cells.n_obs, 4)).astype(np.float32)
    cells.write_h5ad(tmp_path / "vectors.h5ad")
    marks = {}
    for corpus in ("My corpus", "toy", "toy.h5ad", "Other corpus"):
        code, out, err = scmf(
            capsys, monkeypatch, "evaluate", tmp_path / "vectors.h5ad", "--tasks", "types", "--suite",
            own / "suite.yaml", "--obsm", "X", "--as", "me/v1", "--trained-on", corpus, "--results", tmp_path / "r",
            "--json", "--quiet",
        )  # fmt: skip
        assert code == 0, err
        found = [Result.from_json(one) for one in json.loads(out)]
        board = build_leaderboard(found, leaks=known_leaks(), expected={}, verdicts={})
        marks[corpus] = board.tables[0].rows[0].leak[0]
    assert marks == {"My corpus": "leak", "toy": "leak", "toy.h5ad": "", "Other corpus": "unknown"}
