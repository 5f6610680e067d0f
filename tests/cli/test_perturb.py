"""`scmf perturb`: what it writes is what the embeddings of changed cells say, in any order of cells and genes."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scmf.core.config.run import RunConfig, validate
from scmf.data.loading.load import load_cells
from scmf.models.build import build_model
from scmf.models.checkpoint import load_run_model, save_model
from scmf.tokenizers.build import fitted_tokenizer
from tests.fixtures.commands import scmf
from tests.fixtures.tiny_runs import FAMILIES, train_tiny

GENES = [f"ENSG{i:011d}" for i in range(1, 31)]
SYMBOLS = [f"SYM{i}" for i in range(1, 31)]
BY_COUNTS = {
    "generative_transformer": {"n_bins": 0, "long_cells": "first"},
    "masked_autoencoder": {"order": "vocabulary"},
    "autoregressive_transformer": {"vectors": "fit", "dimensions": 8},
}
"""Family -> options of its tokenizer with which nothing is drawn at random."""


def some_cells(n=12, *, seed=0):
    """Counts without ties: some 20 of 30 genes in each cell, three states."""
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.permutation(np.arange(40, 400))[:30] for _ in range(n)]) * (rng.random((n, 30)) < 0.7)
    counts[:, 0] = 0
    counts[::2, 0] = 37  # every other cell has the first gene
    obs = pd.DataFrame({"state": np.array(["a", "b", "c"])[np.arange(n) % 3]}, index=[f"cell{i}" for i in range(n)])
    var = pd.DataFrame({"symbol": SYMBOLS}, index=GENES)
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with cells, and a function that gives an untrained network of a family with its tokenizer."""
    root = tmp_path_factory.mktemp("perturb")
    some_cells(40, seed=5).write_h5ad(root / "training.h5ad")
    some_cells().write_h5ad(root / "cells.h5ad")
    held = {}

    def checkpoint(family="transformer_encoder", *, specials=False, options=None, longest=64, official=False):
        name = f"{family}-{specials}-{options}-{longest}-{official}".replace("/", "-")
        if name not in held:
            strategy, usual, objective, network = FAMILIES[family]
            config = validate(RunConfig, {
                "data": {"files": [str(root / "training.h5ad")]},
                "tokenizer": {
                    "strategy": strategy, "vocabulary": "fit", "min_cells": 2, "max_length": longest,
                    "special_tokens": specials, "match_official": official,
                    "options": usual if options is None else options,
                },
                "model": {
                    "architecture": family, "hidden_dim": 8, "num_layers": 2, "num_heads": 2, "ffn_dim": 8,
                    "initializer_range": 0.5, "options": network,
                },
                "training": {"pretraining_task": objective},
            }, where="test")  # fmt: skip
            tokenizer = fitted_tokenizer(config, load_cells(config.data))
            save_model(build_model(config, tokenizer, seed=0), tokenizer, root / name)
            held[name] = root / name
        return held[name]

    checkpoint.root, checkpoint.cells = root, root / "cells.h5ad"
    return checkpoint


@pytest.fixture
def perturb(tmp_path, capsys):
    """Run `scmf perturb`: the answer and the table of cells; or what it said."""

    def call(model, file, *words, fails=False):
        out = tmp_path / "cells.csv"
        capsys.readouterr()
        code = scmf("perturb", model, file, *words, *(() if "--out" in words else ("--out", out)), "--json")
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if fails:
            return code, said.out + said.err
        assert code == 0, said.out + said.err
        return json.loads(said.out), pd.read_csv(out) if out.exists() else None, said.err

    return call


def vectors(model, file, out, *words):
    """What `scmf embed` gives, float64."""
    assert scmf("embed", file, "--model", model, "--output", out, "--key", "x", "--quiet", *words) == 0
    return ad.read_h5ad(out).obsm["x"].astype(np.float64)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def changed(adata, gene, value, path):
    """A file in which the count of one gene is what ``value`` says of the counts (N, G)."""
    x = adata.X.toarray()
    x[:, GENES.index(gene)] = value(x)
    ad.AnnData(sp.csr_matrix(x), obs=adata.obs, var=adata.var).write_h5ad(path)
    return path


@pytest.mark.parametrize("family", BY_COUNTS)
def test_models_of_counts_read_the_changed_counts(family, made, perturb, tmp_path):
    model = made(family, specials=family == "generative_transformer", options=BY_COUNTS[family])
    adata = ad.read_h5ad(made.cells)
    plain = vectors(model, made.cells, tmp_path / "plain.h5ad")
    gene = GENES[0]
    has = adata.X.toarray()[:, 0] > 0
    ways = {
        ("delete",): (has, lambda x: 0),
        ("overexpress",): (np.ones(12, bool), lambda x: x.max(axis=1)),
        ("overexpress", "--fold", "3"): (has, lambda x: 3 * x[:, 0]),
    }
    states = ("--state-key", "state", "--start", "a", "--goal", "b", "--alternate", "c")
    for (kind, *more), (chosen, value) in ways.items():
        answer, table, _ = perturb(model, made.cells, "--genes", "SYM1", "--perturbation", kind, *more)
        after = vectors(model, changed(adata, gene, value, tmp_path / "changed.h5ad"), tmp_path / "after.h5ad")
        assert table["cell"].tolist() == adata.obs_names[chosen].tolist()
        assert np.abs(table["cosine"] - cosine(plain, after)[chosen]).max() < 1e-6
        assert (more or table["cosine"].min() < 0.9999) and "count of the gene" in answer["definition"]
        assert answer["cells_without_gene"] == ({} if chosen.all() else {gene: 6})
        assert answer["statistics"][0]["n_cells"] == chosen.sum() and answer["statistics"][0]["symbol"] == "SYM1"
        answer, table, _ = perturb(model, made.cells, "--genes", "SYM1", "--perturbation", kind, *more, *states)
        in_state = chosen & (adata.obs["state"] == "a").to_numpy()
        goal = plain[(adata.obs["state"] == "b").to_numpy()].mean(axis=0)
        shift = (cosine(after, goal) - cosine(plain, goal))[in_state]
        assert table["cell"].tolist() == adata.obs_names[in_state].tolist()
        assert np.abs(table["shift_to_b"] - shift).max() < 1e-6
        assert answer["states"] == {"a": 4, "b": 4, "c": 4} and answer["cells"] == 4
        assert np.isclose(answer["statistics"][0]["shift_to_b"], shift.mean(), atol=1e-6)
    assert "redraw_cosine" not in answer


def test_a_ranking_with_cls_is_read_before_its_last_layer_at_cls(made, perturb):
    model = made(specials=True)
    answer, table, _ = perturb(model, made.cells, "--genes", f"{GENES[0]},SYM2", "--combine")
    network, tokenizer = load_run_model(model)
    adata = ad.read_h5ad(made.cells)
    ids = [tokenizer.get_vocab()[gene] for gene in GENES[:2]]
    expected = {}
    for cell, row in zip(adata.obs_names, tokenizer(adata.X, GENES, padding=False)["input_ids"], strict=True):
        if set(ids) <= set(row.tolist()):
            both = [torch.tensor(row[None]), torch.tensor(row[~np.isin(row, ids)][None])]
            with torch.no_grad():
                a, b = (network(one, output_hidden_states=True).hidden_states[1][0, 0].double().numpy() for one in both)
            expected[cell] = cosine(a, b)
    assert table["cell"].tolist() == list(expected) and 0 < len(expected) < 12
    assert np.abs(table["cosine"] - list(expected.values())).max() < 1e-6
    assert answer["statistics"][0]["perturbation"] == f"{GENES[0]}+{GENES[1]}"
    assert answer["embedding"] == {"layer": -1, "pooling": "cls", "similarity": "cosine of the cells"}
    assert answer["cells_without_gene"] == {f"{GENES[0]}+{GENES[1]}": 12 - len(expected)}


@pytest.fixture(scope="module")
def trained(made):
    """A tiny trained run of the encoder, whose cells are rankings without special tokens."""
    (made.root / "run").mkdir()
    training = ad.read_h5ad(made.root / "training.h5ad")
    training.obs["cell_type"] = training.obs["state"]
    training.write_h5ad(made.root / "run" / "cells.h5ad")
    return train_tiny(made.root / "run", "transformer_encoder")


def other_file(adata, path, *, genes, cells, twice=True, unknown=True):
    """The same counts with genes and cells in another order, genes in two columns each, and genes nobody knows."""
    rng = np.random.default_rng(0)
    x, names = adata.X.toarray(), list(adata.var_names)
    if twice:
        half = np.floor(x[:, :6] / 2)
        x[:, :6] -= half
        x, names = np.hstack([x, half]), names + [f"{name}.7" for name in names[:6]]
    if unknown:
        x, names = np.hstack([x, rng.poisson(9, (len(x), 2))]), [*names, "ENSG00000999999", "nothing"]
    order = rng.permutation(len(names)) if genes else np.arange(len(names))
    rows = rng.permutation(len(x)) if cells else np.arange(len(x))
    made = ad.AnnData(sp.csr_matrix(x[rows][:, order].astype(np.float32)), obs=adata.obs.iloc[rows].copy())
    made.var_names = np.array(names)[order]
    made.write_h5ad(path)
    return path


WORDS = ("--genes", "all", "--state-key", "state", "--start", "a", "--goal", "c")


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_permuted_duplicated_and_unknown_genes_change_nothing(kind, trained, made, perturb, tmp_path):
    words = (*WORDS, "--perturbation", kind)
    one, plain, _ = perturb(trained, made.cells, *words)
    assert one["embedding"]["similarity"] == "mean cosine of the genes" and len(plain) > 40
    file = other_file(ad.read_h5ad(made.cells), tmp_path / "other.h5ad", genes=True, cells=True)
    two, other, _ = perturb(trained, file, *words, "--batch-size", 3)
    keys = ["perturbation", "cell"]
    both = plain.merge(other, on=keys, validate="one_to_one")
    assert len(both) == len(plain) == len(other)
    for column in ("cosine", "shift_to_c", "shift_to_a"):
        assert np.abs(both[f"{column}_x"] - both[f"{column}_y"]).max() < 1e-6
    names = [[row["perturbation"] for row in answer["statistics"]] for answer in (one, two)]
    assert sorted(names[0]) == sorted(names[1])
    fewer = ad.read_h5ad(made.cells)[:, 6:].copy()
    fewer.write_h5ad(tmp_path / "fewer.h5ad")
    answer, *_ = perturb(trained, tmp_path / "fewer.h5ad", *words)
    assert not {row["perturbation"] for row in answer["statistics"]} & set(GENES[:6])


@pytest.mark.parametrize("family", BY_COUNTS)
def test_counts_of_one_gene_in_two_columns_are_changed_as_one(family, made, perturb, tmp_path):
    model = made(family, specials=family == "generative_transformer", options=BY_COUNTS[family])
    file = other_file(ad.read_h5ad(made.cells), tmp_path / "other.h5ad", genes=False, cells=True, unknown=False)
    for kind in ("delete", "overexpress"):
        words = ("--genes", f"{GENES[0]},{GENES[4]}", "--perturbation", kind)
        plain, other = (perturb(model, path, *words)[1] for path in (made.cells, file))
        both = plain.merge(other, on=["perturbation", "cell"], validate="one_to_one")
        assert len(both) == len(plain) == len(other) and np.abs(both["cosine_x"] - both["cosine_y"]).max() < 1e-6


def test_a_gene_that_the_file_lacks_is_put_in_front_and_cannot_be_deleted(made, perturb, tmp_path):
    ad.read_h5ad(made.cells)[:, 1:].copy().write_h5ad(tmp_path / "without.h5ad")
    for model in (made(specials=True), made("masked_autoencoder", options=BY_COUNTS["masked_autoencoder"])):
        words = ("--genes", GENES[0])
        answer, table, _ = perturb(model, tmp_path / "without.h5ad", *words, "--perturbation", "overexpress")
        assert len(table) == 12 and table["cosine"].max() < 1 and answer["cells_without_gene"] == {}
        code, said = perturb(model, tmp_path / "without.h5ad", *words, fails=True)
        assert code == 3 and "none of 12 cells has the gene" in said
        _, table, said = perturb(model, tmp_path / "without.h5ad", "--genes", f"{GENES[0]},{GENES[1]}")
        assert set(table["perturbation"]) == {GENES[1]} and f"no cell can be perturbed for {GENES[0]}" in said


def test_a_symbol_of_two_genes_is_one_error(made, perturb, tmp_path):
    adata = ad.read_h5ad(made.cells)
    adata.var["symbol"] = ["SYM1", "SYM1", *SYMBOLS[2:]]
    adata.write_h5ad(tmp_path / "twice.h5ad")
    code, said = perturb(made(specials=True), tmp_path / "twice.h5ad", "--genes", "SYM1", fails=True)
    assert code == 3 and f"{GENES[0]}, {GENES[1]}" in said
    _, table, _ = perturb(made(specials=True), tmp_path / "twice.h5ad", "--genes", f"{GENES[0]}.12,{GENES[0].lower()}")
    assert table["perturbation"].tolist() == [GENES[0]] * 6


def test_other_cells_are_a_null(made, perturb, tmp_path):
    some_cells(9, seed=3).write_h5ad(tmp_path / "null.h5ad")
    answer, table, _ = perturb(
        made(specials=True), made.cells, "--genes", "SYM1,SYM5", "--null", tmp_path / "null.h5ad"
    )
    assert table["cells"].value_counts().to_dict().keys() == {"test", "other"}
    row = next(row for row in answer["statistics"] if row["symbol"] == "SYM1")
    assert row["n_cells"] == 6 and row["n_null"] == 5 and 0 <= row["fdr"] <= 1
    mine = table[(table["cells"] == "test") & (table["perturbation"] == GENES[0])]["cosine"]
    assert np.isclose(row["cosine_mean"], mine.mean())


def test_a_null_without_the_gene_is_told_and_a_bad_one_costs_no_work(made, perturb, tmp_path, monkeypatch):
    model = made(specials=True)
    some_cells(9, seed=3)[:, 1:].copy().write_h5ad(tmp_path / "null.h5ad")
    answer, table, _ = perturb(model, made.cells, "--genes", "SYM1", "--null", tmp_path / "null.h5ad")
    row = answer["statistics"][0]
    assert row["n_null"] == 0 and row["p_value"] == 1 and row["null_mean"] is None
    assert set(table["cells"]) == {"test"} and answer["null"]["cells_without_gene"] == {GENES[0]: 9}
    (tmp_path / "bad.h5ad").write_bytes(b"no file of this kind")
    monkeypatch.setattr("scmf.evaluation.in_silico.run.measure", None)  # which would be a fault of its own
    code, said = perturb(model, made.cells, "--genes", "SYM1", "--null", tmp_path / "bad.h5ad", fails=True)
    assert code == 3 and "bad.h5ad" in said


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_genes_that_a_long_cell_leaves_out_are_no_edits(kind, made, perturb):
    model = made("generative_transformer", specials=True, options={"n_bins": 0, "long_cells": "first"}, longest=11)
    answer, table, said = perturb(model, made.cells, "--genes", "SYM1,SYM5,SYM30", "--perturbation", kind)
    assert set(table["perturbation"]) == {GENES[0], GENES[4]} and table["cosine"].max() < 1
    expressed = int((ad.read_h5ad(made.cells).X[:, 29] > 0).sum()) if kind == "delete" else 12
    assert answer["cells_whose_gene_is_not_read"][GENES[29]] == expressed and "does not read the gene" in said
    code, said = perturb(model, made.cells, "--genes", "SYM30", "--perturbation", kind, fails=True)
    assert code == 3 and "long cells are sampled or cut" in said


def test_names_in_the_table_are_no_formulas(made, perturb, tmp_path):
    adata = ad.read_h5ad(made.cells)
    adata.obs_names = [f"=cell{i}" for i in range(12)]
    adata.write_h5ad(tmp_path / "formulas.h5ad")
    _, table, _ = perturb(made(specials=True), tmp_path / "formulas.h5ad", "--genes", "SYM1")
    assert table["cell"].tolist() == [f"'=cell{i}" for i in range(0, 12, 2)]


def test_draws_that_depend_on_other_cells_are_refused(made, perturb):
    model = made("generative_transformer", specials=True, official=True)
    code, said = perturb(model, made.cells, "--genes", "SYM1", fails=True)
    assert code == 2 and "match_official" in said


def test_fewer_cells_are_drawn_by_the_seed(made, perturb):
    words = ("--genes", "SYM1,SYM5", "--max-cells", 3)
    one, first, _ = perturb(made(specials=True), made.cells, *words)
    _, same, _ = perturb(made(specials=True), made.cells, *words)
    _, other, _ = perturb(made(specials=True), made.cells, *words, "--seed", 7)
    assert first.equals(same) and not first["cell"].equals(other["cell"])
    assert first.groupby("perturbation").size().tolist() == [3, 3] and one["cells_without_gene"][GENES[0]] == 6


def test_a_tokenizer_that_draws_says_how_far_that_moves_a_cell(made, perturb, tmp_path):
    adata = ad.read_h5ad(made.cells)
    adata.X.data = np.ceil(adata.X.data / 100)  # many equal counts, which fall into bins at random
    adata.write_h5ad(tmp_path / "equal.h5ad")
    model = made("generative_transformer", specials=True)
    answer, table, said = perturb(model, tmp_path / "equal.h5ad", "--genes", "SYM3")
    assert 0 < answer["redraw_cosine"] < 1 and "draws at random" in said and len(table)


def test_the_table_on_the_screen_and_parquet(made, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    out = tmp_path / "cells.parquet"
    assert scmf("perturb", made(specials=True), made.cells, "--genes", "SYM1", "--out", out, "--quiet") == 0
    said = capsys.readouterr().out
    assert "cosine_mean" in said and GENES[0] in said and "taken out of the ranking" in said
    assert pd.read_parquet(out)["cell"].tolist() == [f"cell{i}" for i in range(0, 12, 2)]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--genes", "SIM1,SYM2,nothing-like-it"), "'SIM1' (nearest: SYM1)"),
        (("--genes", ""), "no gene"),
        (("--genes", "all,SYM1"), "beside names of genes"),
        (("--genes", "all", "--combine"), "--combine with --genes all"),
        (("--genes", "SYM1", "--perturbation", "inhibit"), "one of delete, overexpress"),
        (("--genes", "SYM1", "--fold", "2"), "--fold with a deletion"),
        (("--genes", "SYM1", "--fold", "2", "--perturbation", "overexpress"), "reads a ranking"),
        (("--genes", "SYM1", "--start", "a"), "--start without --state-key, --goal"),
        (("--genes", "SYM1", "--alternate", "a"), "--alternate without"),
        (("--genes", "SYM1", "--state-key", "state", "--start", "a", "--goal", "a"), "the state 'a' twice"),
        (("--genes", "SYM1", "--state-key", "stat", "--start", "a", "--goal", "b"), "did you mean 'state'"),
        (("--genes", "SYM1", "--state-key", "state", "--start", "a", "--goal", "x"), "no cell of the state 'x'"),
        (("--genes", "SYM1", "--out", "table.txt"), ".csv or .parquet"),
        (("--genes", "SYM1", "--pooling", "max"), "pooling='max'"),
        (("--genes", "SYM1", "--layer", "-9"), "layer=-9"),
        (("--genes", "SYM1", "--null", "nowhere.h5ad"), "nowhere.h5ad"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_what_cannot_be_is_one_error(words, wanted, made, perturb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = perturb(made(specials=True), made.cells, *words, fails=True)
    assert code >= 2 and wanted in said
    assert not list(tmp_path.iterdir())
