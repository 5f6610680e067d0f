"""`scmf.check`, `finetune`, `predict` and `evaluate` on an AnnData: what the commands say of its file, to the bit."""

import json
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scmf
from scmf.core.errors import ConfigError, DataError, EvaluationError, GeneError, ModelError, ScmfError
from scmf.core.python_words import python_words
from tests.cli.test_predict import other_genes
from tests.conftest import synthetic_cells
from tests.fixtures.adata_forms import FORMS, state
from tests.fixtures.commands import scmf as command
from tests.fixtures.tiny_runs import tiny  # noqa: F401  (fixture)

KEY = "predicted_cell_type"
SETTINGS = {"split_key": "donor_id", "epochs": 2, "lr": 5e-3}
WORDS = ("--split-key", "donor_id", "--epochs", 2, "--lr", 5e-3)


@pytest.fixture(scope="module")
def adata():
    return synthetic_cells(60)


@pytest.fixture(scope="module")
def tuned(tiny, adata):  # noqa: F811
    """A model fine-tuned in Python."""
    before = state(adata)
    made = scmf.finetune(adata, tiny(), out=tiny.root / "tuned", **SETTINGS)
    assert state(adata) == before
    return made


@pytest.fixture(scope="module")
def labeled(tuned, tiny):  # noqa: F811
    """The file that `scmf predict` writes."""
    out = tiny.root / "labeled.h5ad"
    assert command("predict", tuned.folder, tiny.cells, "--out", out, "--quiet") == 0
    return ad.read_h5ad(out)


def same_labels(found, wanted):
    assert np.asarray(found.obsm[KEY]).tobytes() == np.asarray(wanted.obsm[KEY]).tobytes()
    assert found.obs[KEY].dtype == wanted.obs[KEY].dtype and (found.obs[KEY] == wanted.obs[KEY]).all()
    assert (found.obs[f"{KEY}_probability"] == wanted.obs[f"{KEY}_probability"]).all()
    assert list(found.uns[KEY]["classes"]) == list(wanted.uns[KEY]["classes"])
    assert found.uns[KEY]["model"] == wanted.uns[KEY]["model"]
    assert dict(found.uns["scmf"][KEY]) == dict(wanted.uns["scmf"][KEY])


# --- predict ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dense", "layer", "view of backed"])
def test_predict_gives_what_the_command_writes(form, adata, tuned, labeled, tmp_path):
    given = FORMS[form](adata, tmp_path)
    before = state(given)
    found = scmf.predict(given, tuned.folder)
    same_labels(found, labeled)
    assert state(given) == before and found is not given and not found.isbacked and not found.is_view
    assert list(found.obs_names) == list(adata.obs_names)


@pytest.mark.parametrize("genes", ["permuted and added up", "missing"])
def test_other_genes_are_read_as_in_a_file(genes, adata, tuned, tmp_path):
    file, out = tmp_path / "other.h5ad", tmp_path / "out.h5ad"
    if genes == "missing":
        adata[:, 10:].copy().write_h5ad(file)
    else:
        other_genes(adata, file)
    assert command("predict", tuned.folder, file, "--out", out, "--quiet") == 0
    same_labels(scmf.predict(ad.read_h5ad(file), tuned.folder), ad.read_h5ad(out))


def refused(adata):
    """Cells that every verb refuses, by reason."""
    twice = adata.copy()
    twice.var_names = [*adata.var_names[:-1], adata.var_names[0]]
    cells = adata.copy()
    cells.obs_names = ["same"] * adata.n_obs
    normalized = adata.copy()
    normalized.X = normalized.X.copy()
    normalized.X.data = np.log1p(normalized.X.data / 7)
    unknown = adata.copy()
    unknown.var_names = [*adata.var_names[:2], *(f"ENSG{9 * 10**10 + i}" for i in range(adata.n_vars - 2))]
    return {"genes": twice, "cells": cells, "normalized": normalized, "unknown": unknown}


@pytest.mark.parametrize("what", ["genes", "cells", "normalized", "unknown"])
def test_what_a_file_is_refused_for_an_anndata_is_refused_for(what, adata, tuned, tmp_path, capsys):
    bad = refused(adata)[what]
    with pytest.raises(DataError) as told:
        scmf.predict(bad, tuned.folder)
    bad.write_h5ad(tmp_path / "bad.h5ad")
    assert command("predict", tuned.folder, tmp_path / "bad.h5ad", "--json", "--quiet") == told.value.exit_code
    said = json.loads(capsys.readouterr().out)
    assert (said["error"], said["found"], said["wanted"]) == (
        type(told.value).__name__, told.value.found, told.value.wanted
    )  # fmt: skip
    assert python_words(said["do"]) == told.value.fix


@pytest.mark.parametrize(
    ("given", "error", "found"),
    [
        (lambda adata: adata[:0].copy(), DataError, "no cells"),
        (lambda adata: ad.AnnData(obs=adata.obs, var=adata.var), DataError, "no matrix at all"),
        (lambda adata: adata.to_df(), ConfigError, "an object of the type DataFrame"),
        (lambda adata: "cells.h5ad", ConfigError, "an object of the type str"),
        (
            lambda adata: ad.AnnData(np.ma.masked_less(adata.X.toarray(), 1), obs=adata.obs, var=adata.var),
            DataError,
            "MaskedArray",
        ),
    ],
    ids=["empty", "no matrix", "a table", "a path", "masked"],
)  # fmt: skip
def test_what_is_no_cells_is_one_error_of_every_verb(given, error, found, adata, tuned):
    for verb in (scmf.embed, scmf.predict, scmf.evaluate, scmf.finetune):
        with pytest.raises(error, match=found):
            verb(given(adata), tuned.folder)


def test_in_place_and_keys(adata, tuned, labeled, tmp_path, caplog):
    mine = adata.copy()
    assert scmf.predict(mine, tuned.folder, inplace=True) is mine
    same_labels(mine, labeled)
    caplog.clear()
    scmf.predict(mine, tuned.folder, inplace=True)
    assert f"new values of '{KEY}' in place of those that are there" in caplog.text
    backed = FORMS["backed"](adata, tmp_path)
    assert scmf.predict(backed, tuned.folder, inplace=True, key="mine") is backed and backed.isbacked
    assert {"mine", "mine_probability"} <= set(backed.obs)
    with pytest.raises(ConfigError, match="a view of an AnnData that is backed"):
        scmf.predict(backed[:5], tuned.folder, inplace=True)
    for key in ("a/b", "", "_index"):
        with pytest.raises(ConfigError, match="key"):
            scmf.predict(mine, tuned.folder, key=key)


def test_a_view_in_place_leaves_its_parent_alone(adata, tuned):
    parent = adata.copy()
    view, before = parent[:7], state(parent)
    with pytest.warns(ad.ImplicitModificationWarning):
        scmf.predict(view, tuned.folder, inplace=True)
    assert view.obsm[KEY].shape == (7, 3) and state(parent) == before


def test_a_network_without_a_classifier_is_one_error(adata, tiny):  # noqa: F811
    with pytest.raises(ModelError, match="a network without a classifier"):
        scmf.predict(adata, tiny())


# --- finetune ---------------------------------------------------------------------------------


def test_finetune_makes_the_weights_that_the_command_makes(adata, tuned, tiny, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    words = ("--base-model", tiny(), "--data", tiny.cells, *WORDS)
    assert command("finetune", *words, "--out", out, "--quiet") == 0
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (tuned.folder / weights).read_bytes()
    assert (out / "split.tsv").read_bytes() == (tuned.folder / "split.tsv").read_bytes()
    note = json.loads((tuned.folder / "run.json").read_text())
    assert note["config"]["data"]["files"] == [str(tuned.folder / "cells.h5ad")]


def test_a_run_keeps_its_cells_and_resumes_with_the_same_alone(adata, tuned, tiny, tmp_path):  # noqa: F811
    again = scmf.finetune(adata, tiny(), out=tuned.folder, **SETTINGS)
    assert again.answer["resumed_from"] == again.answer["steps"] == tuned.answer["steps"]
    other = adata.copy()
    other.obs["cell_type"] = other.obs["cell_type"].to_numpy()[::-1]
    kept = (tuned.folder / "cells.h5ad").read_bytes()
    with pytest.raises(ConfigError, match="other cells in"):
        scmf.finetune(other, tiny(), out=tuned.folder, **SETTINGS)
    assert (tuned.folder / "cells.h5ad").read_bytes() == kept


def test_what_fails_leaves_nothing_and_a_users_file_stays(adata, tiny, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match="no column 'nothing' in obs"):
        scmf.finetune(adata, tiny(), out=tmp_path / "run", label_key="nothing")
    assert not (tmp_path / "run").exists()
    (tmp_path / "cells.h5ad").write_text("mine")
    with pytest.raises(ConfigError, match="other cells in"):
        scmf.finetune(adata, tiny(), out=tmp_path)
    assert (tmp_path / "cells.h5ad").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    for values in ([object()] * adata.n_obs, pd.to_datetime(["2026-01-01"] * adata.n_obs)):
        odd = adata.copy()
        odd.obs["odd"] = values
        with pytest.raises(DataError, match="cells that cannot be written"):
            scmf.finetune(odd, tiny(), out=tmp_path / "odd")
    shutil.copytree(tiny(), tmp_path / "pretrained")
    with pytest.raises(ScmfError):
        scmf.finetune(adata, tiny(), out=tmp_path / "pretrained")
    assert not (tmp_path / "pretrained" / "cells.h5ad").exists()
    with pytest.raises(ConfigError, match=r"no model|no --base-model|no base model"):
        scmf.finetune(adata, out=tmp_path / "run")


# --- evaluate, check --------------------------------------------------------------------------


def test_evaluate_gives_the_scores_of_the_command(adata, tuned, tiny, capsys):  # noqa: F811
    split = tuned.folder / "split.tsv"
    words = ("--set", f"data.files=[{tiny.cells}]", "--set", "eval.benchmarks=[annotation]", "--json", "--quiet")
    capsys.readouterr()
    assert command("evaluate", tuned.folder, "--set", f"data.split={split}", *words) == 0
    said = json.loads(capsys.readouterr().out)
    before = state(adata)
    scores = scmf.evaluate(adata, tuned.folder, benchmarks=["annotation"], split=split)
    assert state(adata) == before
    assert [(s.protocol, s.method, s.metrics) for s in scores] == [
        (one["protocol"], one["method"], one["metrics"]) for one in said
    ]
    assert any(s.protocol == "finetuned_head" for s in scores)
    with pytest.raises(EvaluationError, match="cells without a split"):
        scmf.evaluate(adata, tuned.folder, benchmarks=["annotation"])
    with pytest.raises(ConfigError, match="split without an AnnData"):
        scmf.evaluate(None, tuned.folder, split=split)


def test_a_run_is_scored_on_its_own_cells_wherever_its_folder_lies(tuned, tmp_path):
    wanted = scmf.evaluate(None, tuned.folder, benchmarks=["annotation"])
    moved = tmp_path / "deep" / "moved"
    moved.parent.mkdir()
    tuned.folder.rename(moved)
    try:
        found = scmf.evaluate(None, moved, benchmarks=["annotation"])
    finally:
        moved.rename(tuned.folder)
    assert [one.metrics for one in found] == [one.metrics for one in wanted]


@pytest.mark.parametrize("what", ["fine", "genes", "cells", "normalized", "empty cell"])
def test_check_finds_what_the_command_finds(what, adata, tuned, tmp_path, capsys):
    cells = adata.copy()
    if what == "empty cell":
        cells.X = cells.X.toarray()
        cells.X[3] = 0
    elif what != "fine":
        cells = refused(adata)[what]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    words = ("--split", tuned.folder / "split.tsv", "--donor-key", "donor_id", "--json")
    command("check", tmp_path / "cells.h5ad", *words)
    said, before = json.loads(capsys.readouterr().out), state(cells)
    found = scmf.check(cells, split=tuned.folder / "split.tsv", donor_key="donor_id")
    assert state(cells) == before
    assert json.loads(json.dumps(found.to_json())) == {**said, "subject": "AnnData in memory"}
    assert found.ok == (what == "fine")


def test_the_chain_of_all_verbs(adata, tiny, tmp_path):  # noqa: F811
    assert scmf.check(adata).ok
    train, new = adata[adata.obs["donor_id"] != "d0"], adata[adata.obs["donor_id"] == "d0"]
    made = scmf.finetune(train, tiny(), out=tmp_path / "run", **SETTINGS)
    labeled = scmf.embed(scmf.predict(new, made.folder), made.folder, key="X_tuned")
    assert labeled.obsm["X_tuned"].shape == (new.n_obs, 8) and set(labeled.uns["scmf"]) == {KEY, "X_tuned"}
    assert set(labeled.obs[KEY]) <= set(adata.obs["cell_type"])
    split = tmp_path / "run" / "split.tsv"
    scores = scmf.evaluate(train, made.folder, benchmarks=["annotation"], split=split)
    assert {"pretrained", "untrained", "pca"} <= {score.method for score in scores}


def test_vectors_of_an_anndata_are_scored_on_tasks(tmp_path, toy_env):
    from scmf.evaluation.evaluate_adata import evaluate_vectors

    suite = tmp_path / "suite.yaml"
    task = {"benchmark": "annotation", "dataset": str(toy_env / "toy.yaml"), "split": "donor", "description": "a toy"}
    suite.write_text(json.dumps({"tasks": {"types": {**task, "protocols": ["linear_probe"]}}}))
    cells = synthetic_cells()
    cells.obsm["X_mine"] = cells.X.toarray()[:, :9]
    cells.write_h5ad(tmp_path / "mine.h5ad")
    words = ("--tasks", "types", "--suite", suite, "--obsm", "X_mine", "--as", "me/v1", "--results")
    assert command("evaluate", tmp_path / "mine.h5ad", *words, tmp_path / "a", "--quiet") == 0
    found = evaluate_vectors(
        cells, tasks=["types"], suite=suite, obsm="X_mine", name="me/v1", results_dir=tmp_path / "b"
    )
    (wanted,) = (json.loads(path.read_text()) for path in (tmp_path / "a").rglob("*linear_probe*.json"))
    assert [one.metrics for one in found if one.protocol == "linear_probe"] == [wanted["metrics"]]
    with pytest.raises(ConfigError, match="without obsm"):
        evaluate_vectors(cells, tasks=["types"], suite=suite, name="me/v1", results_dir=tmp_path / "b")


def test_messages_name_parameters():
    assert python_words("--batch-key COLUMN, one of a, b") == "batch_key=COLUMN, one of a, b"
    assert python_words("or give --allow-low-coverage") == "or give allow_low_coverage=True"
    assert python_words("another --key; or --split FILE") == "another key; or split=FILE"
    assert python_words("scmf data split CELLS --by x") == "scmf data split CELLS --by x"
    with pytest.raises(GeneError):
        raise GeneError("x")
