"""`scmf predict`: labels and probabilities of a fine-tuned run, in any order of genes; the chain with peft."""

import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scmf.models.embed import classify_tokens
from tests.conftest import synthetic_cells
from tests.fixtures.commands import scmf
from tests.fixtures.tiny_runs import tiny  # noqa: F401  (fixture)

KEY = "predicted_cell_type"


@pytest.fixture(scope="module")
def tuned(tiny):  # noqa: F811
    """A fine-tuned run."""
    out = tiny.root / "tuned"
    words = ("--base-model", tiny(), "--data", tiny.cells, "--split-key", "donor_id", "--epochs", 4, "--lr", 5e-3)
    assert scmf("finetune", *words, "--out", out, "--quiet") == 0
    return out


@pytest.fixture
def predict(tmp_path, capsys):
    """Run `scmf predict`: the new file, and the answer; or what it said."""

    def call(run, file, *words, fails=False):
        out = tmp_path / f"labels{file.suffix}"
        capsys.readouterr()
        code = scmf("predict", run, file, "--out", out, "--json", *words)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if fails:
            return code, said.out + said.err
        assert code == 0, said.out + said.err
        adata = ad.read_zarr(out) if file.suffix == ".zarr" else ad.read_h5ad(out)
        return adata, json.loads(said.out), said.err

    return call


def other_genes(adata, path, *, permute=True):
    """The same counts with permuted genes, some split over two columns, and genes that the model does not know."""
    rng = np.random.default_rng(0)
    x = adata.X.toarray()
    twice = x[:, :9] // 2
    x[:, :9] -= twice
    names = [*adata.var_names, *(f"{name}.7" for name in adata.var_names[:9]), "ENSG00000999999", "MT-nothing"]
    unknown = rng.poisson(1.0, (len(x), 2)) * permute  # they move the depth, and with it what is equal after rounding
    x = np.hstack([x, twice, unknown])
    order = rng.permutation(x.shape[1]) if permute else np.arange(x.shape[1])
    changed = ad.AnnData(sp.csr_matrix(x[:, order].astype(np.float32)), obs=adata.obs.copy())
    changed.var_names = np.array(names)[order]
    changed.write_h5ad(path)
    return path


def test_labels_and_probabilities_are_those_of_the_network(tuned, tiny, predict):  # noqa: F811
    found, answer, said = predict(tuned, tiny.cells)
    assert found.obs[KEY].dtype == "category" and list(found.obs[KEY].cat.categories) == ["alpha", "beta", "delta"]
    p_NC = found.obsm[KEY]
    assert p_NC.shape == (60, 3) and np.allclose(p_NC.sum(axis=1), 1, atol=1e-6)
    classes = found.uns[KEY]["classes"]
    assert list(classes) == ["alpha", "beta", "delta"] and found.uns[KEY]["model"] == str(tuned)
    assert (np.array(classes)[p_NC.argmax(axis=1)] == found.obs[KEY].astype(str)).all()
    assert np.allclose(found.obs[f"{KEY}_probability"], p_NC.max(axis=1))
    assert answer["labels"] == {name: int((found.obs[KEY] == name).sum()) for name in classes}
    assert "the vocabulary knows" in answer["coverage"] and answer["coverage"] in " ".join(said.split())
    before = ad.read_h5ad(tiny.cells)
    assert (found.X != before.X).nnz == 0 and list(found.obs["donor_id"]) == list(before.obs["donor_id"])


@pytest.mark.nightly  # in this process in the chain below; in one without scmf in tests/hub/test_hub.py
def test_a_network_from_the_folder_by_transformers_gives_the_same(tuned, tiny, predict):  # noqa: F811
    found, *_ = predict(tuned, tiny.cells)
    program = (
        "import sys\nsys.modules['scmf'] = None\n"
        "import anndata, torch, numpy as np\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
        f"folder, cells = {str(tuned / 'model')!r}, anndata.read_h5ad({str(tiny.cells)!r})\n"
        "model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)\n"
        "batch = dict(tokenizer(cells.X, list(cells.var_names), return_tensors='pt'))\n"
        "batch.pop('length')\n"
        "with torch.no_grad():\n    p = torch.softmax(model(**batch).logits, 1).numpy()\n"
        f"np.save({str(tiny.root / 'p.npy')!r}, p)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load(tiny.root / "p.npy") - found.obsm[KEY]).max() < 1e-6


def test_permuted_missing_and_duplicated_genes_change_nothing_that_is_known(tuned, tiny, predict, tmp_path):  # noqa: F811
    plain, *_ = predict(tuned, tiny.cells)
    cells = ad.read_h5ad(tiny.cells)
    same, *_ = predict(tuned, other_genes(cells, tmp_path / "same.h5ad", permute=False))
    assert np.abs(plain.obsm[KEY] - same.obsm[KEY]).max() < 1e-6
    permuted, *_ = predict(tuned, other_genes(cells, tmp_path / "permuted.h5ad"))
    assert np.abs(plain.obsm[KEY] - permuted.obsm[KEY]).max() < 0.1, (
        "genes of equal rank stand in the order of the file"
    )
    cells[:, 10:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    found, answer, _ = predict(tuned, tmp_path / "fewer.h5ad")
    assert found.n_obs == 60 and "of 110 genes" in answer["coverage"]


def test_a_gene_name_that_stands_twice_is_one_error(tuned, predict, tmp_path):
    cells = synthetic_cells(6)
    cells.var_names = [*cells.var_names[:-1], cells.var_names[0]]
    cells.write_h5ad(tmp_path / "twice.h5ad")
    code, said = predict(tuned, tmp_path / "twice.h5ad", fails=True)
    assert code and "stand more than once" in said and "add up the columns" in said


def test_few_known_genes_are_refused_unless_asked(tuned, predict, tmp_path):
    cells = synthetic_cells(6)
    cells.var_names = [*cells.var_names[:4], *(f"ENSG{9 * 10**10 + i}" for i in range(cells.n_vars - 4))]
    cells.X[:, 0] = 1
    cells.write_h5ad(tmp_path / "few.h5ad")
    code, said = predict(tuned, tmp_path / "few.h5ad", fails=True)
    assert code and "--allow-low-coverage" in said
    assert predict(tuned, tmp_path / "few.h5ad", "--allow-low-coverage")[0].n_obs == 6


def test_zarr_and_a_key_of_ones_own(tuned, predict, tmp_path):
    synthetic_cells(8, seed=4).write_zarr(tmp_path / "cells.zarr")
    found, *_ = predict(tuned, tmp_path / "cells.zarr", "--key", "mine")
    assert {"mine", "mine_probability"} <= set(found.obs) and found.obsm["mine"].shape == (8, 3)


@pytest.mark.parametrize("key", ["a/b", "", "_index"])
def test_a_key_that_cannot_be_is_one_error(key, tuned, tiny, predict):  # noqa: F811
    code, said = predict(tuned, tiny.cells, "--key", key, fails=True)
    assert code == 2 and ("key" in said)


def test_a_network_without_a_classifier_is_one_error(tiny, predict):  # noqa: F811
    code, said = predict(tiny(), tiny.cells, fails=True)
    assert code and "a network without a classifier" in said and "scmf finetune" in said


def test_the_chain_with_lora_from_training_to_peft_alone(tiny, predict, tmp_path, capsys):  # noqa: F811
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out = tmp_path / "lora"
    words = ("--method", "lora", "--split-key", "donor_id", "--epochs", 3, "--eval", "annotation", "--seed", 1)
    assert scmf("finetune", "--base-model", tiny(), "--data", tiny.cells, *words, "--out", out, "--quiet") == 0
    capsys.readouterr()
    assert scmf("evaluate", out, "--json", "--quiet") == 0
    scores = json.loads(capsys.readouterr().out)
    assert any(one["protocol"] == "finetuned_head" and one["method"] == "pretrained" for one in scores)
    file = other_genes(synthetic_cells(30, seed=6), tmp_path / "other.h5ad")
    found, *_ = predict(out, file)
    cells = ad.read_h5ad(file)
    tokenizer = AutoTokenizer.from_pretrained(out / "model", trust_remote_code=True)
    batch = dict(tokenizer(cells.X, list(cells.var_names), return_tensors="pt"))
    batch.pop("length")
    head = {"num_labels": 3, "classifier_pooling": "first"}
    base = AutoModelForSequenceClassification.from_pretrained(tiny() / "model", **head)
    merged = AutoModelForSequenceClassification.from_pretrained(out / "model")
    for network in (merged, peft.PeftModel.from_pretrained(base, out / "adapter")):
        with torch.no_grad():
            p_NC = torch.softmax(network.eval()(**batch).logits, 1).numpy()
        assert np.abs(p_NC - found.obsm[KEY]).max() < 1e-6
    assert scmf("publish", out, "--repo", "lab/x", "--out", tmp_path / "hub", "--dry-run", "--quiet") == 0
    published = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub")
    with torch.no_grad():
        p_NC = torch.softmax(published.eval()(**batch).logits, 1).numpy()
    assert np.abs(p_NC - found.obsm[KEY]).max() < 1e-6


def test_scores_that_are_no_numbers_are_one_error(tuned, tiny, predict, monkeypatch):  # noqa: F811
    monkeypatch.setattr("scmf.evaluation.predict.classify_tokens", with_nan_weights(classify_tokens))
    code, said = predict(tuned, tiny.cells, fails=True)
    assert code and "scores of cell 0 are not finite" in said


def with_nan_weights(classify):
    def call(network, tokens, **keywords):
        with torch.no_grad():
            next(network.parameters()).fill_(float("nan"))
        return classify(network, tokens, **keywords)

    return call
