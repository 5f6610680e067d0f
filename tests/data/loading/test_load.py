"""Cells in: own files and cards, and one clear error for each bad input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from scmf.core.config.run import DataConfig
from scmf.core.errors import ChecksumError, CountsError, DataError, GeneError, SourceError
from scmf.core.files import sha256_file, sha256_json
from scmf.data.genes.ids import GeneMap
from scmf.data.loading.facts import DataFacts
from scmf.data.loading.load import load_cells

ENSEMBL = [f"ENSG{i:011d}" for i in range(1, 7)]
SYMBOLS = ["TP53", "CD3E", "MS4A1", "INS", "GCG", "SST"]


def write(path, *, n=5, genes=ENSEMBL, x=None, seed=0, prefix="c", obs=None, **columns):
    rng = np.random.default_rng(seed)
    if x is None:
        x = sparse.csr_matrix(rng.poisson(1.0, size=(n, len(genes))).astype(np.float32))
    n = x.shape[0]
    table = pd.DataFrame({"kind": [["a", "b"][i % 2] for i in range(n)], "study": "s1"}, index=range(n)).astype(str)
    table.index = [f"{prefix}{i}" for i in range(n)] if obs is None else obs
    adata = ad.AnnData(x, obs=table, var=pd.DataFrame(columns, index=pd.Index(genes)))
    adata.write_h5ad(path)
    return path


def load(*files, **keys):
    return load_cells(DataConfig(files=files, **keys))


def test_a_file_becomes_raw_counts_ids_and_a_note(tmp_path):
    path = write(tmp_path / "a.h5ad", feature_name=SYMBOLS)
    cells = load(path, label_key="kind", batch_key="study")
    assert isinstance(cells.X, sparse.csr_matrix) and cells.X.dtype == np.float32 and cells.X.has_canonical_format
    np.testing.assert_array_equal(cells.X.toarray(), ad.read_h5ad(path).X.toarray())
    assert cells.var_names.tolist() == ENSEMBL and cells.var["symbol"].tolist() == SYMBOLS
    assert cells.obs["kind"].tolist() == ["a", "b", "a", "b", "a"]
    assert cells.facts == DataFacts(
        dataset="a.h5ad",
        sha256=sha256_file(path),
        label_key="kind",
        batch_key="study",
        counts="X",
        gene_ids="ensembl",
        species="Homo sapiens",
    )
    assert cells.split is None and cells.total_counts is None and not cells.adata.uns


def test_what_was_loaded_can_be_written_and_read_again(tmp_path):
    cells = load(write(tmp_path / "a.h5ad"))
    cells.adata.write_h5ad(tmp_path / "b.h5ad")
    again = load(tmp_path / "b.h5ad")
    assert (again.X != cells.X).nnz == 0 and again.obs.equals(cells.obs) and again.var.equals(cells.var)


def test_ensembl_ids_are_found_in_a_column_and_symbols_kept(tmp_path):
    cells = load(write(tmp_path / "a.h5ad", genes=SYMBOLS, gene_ids=ENSEMBL))
    assert cells.var_names.tolist() == ENSEMBL and cells.var["symbol"].tolist() == SYMBOLS


def test_a_split_of_ones_own_is_read_by_path(tmp_path):
    path = write(tmp_path / "a.h5ad", n=3)
    tsv = tmp_path / "mine.tsv"
    tsv.write_text("cell_id\tpart\nc2\ttest\nc0\ttrain\nc1\tvalid\n")
    cells = load(path, split=str(tsv))
    assert cells.split.tolist() == ["train", "valid", "test"] and cells.rows("valid").tolist() == [1]
    assert cells.facts.split_sha256 == sha256_file(tsv)


def test_columns_of_the_user_that_are_called_part_or_split_stay_as_they_are(tmp_path):
    path = write(tmp_path / "a.h5ad", n=3)
    adata = ad.read_h5ad(path)
    adata.obs["part"], adata.obs["split"] = ["left", "right", "left"], ["x", "y", "z"]
    adata.write_h5ad(path)
    (tmp_path / "mine.tsv").write_text("cell_id\tsplit\nc2\ttest\nc0\ttrain\nc1\tvalid\n")
    cells = load(path, split=str(tmp_path / "mine.tsv"))
    assert cells.obs["part"].tolist() == ["left", "right", "left"] and cells.obs["split"].tolist() == ["x", "y", "z"]
    assert cells.split.tolist() == ["train", "valid", "test"]


def test_a_selection_takes_the_split_along(tmp_path):
    tsv = tmp_path / "mine.tsv"
    tsv.write_text("cell_id\tsplit\nc2\ttest\nc0\ttrain\nc1\tvalid\n")
    cells = load(write(tmp_path / "a.h5ad", n=3), split=str(tsv))
    for index, wanted in (
        ([2, 0], ["test", "train"]),
        (np.array([True, False, True]), ["train", "test"]),
        (slice(1, None), ["valid", "test"]),
    ):
        assert cells[index].split.tolist() == wanted
    assert cells[:, :2].shape == (3, 2) and cells[cells.rows("test"), :2].split.tolist() == ["test"]
    assert load(tmp_path / "a.h5ad").rows("train").tolist() == [0, 1, 2]


def test_files_are_joined_over_the_union_of_their_genes(tmp_path):
    a = write(tmp_path / "a.h5ad", n=2, genes=ENSEMBL[:4], feature_name=SYMBOLS[:4], prefix="a")
    b = write(tmp_path / "b.h5ad", n=3, genes=ENSEMBL[2:], feature_name=SYMBOLS[2:], prefix="b", seed=1)
    cells = load(a, b)
    assert cells.shape == (5, 6) and cells.X.has_canonical_format
    table = cells.adata.to_df()
    pd.testing.assert_frame_equal(table.loc[["a0", "a1"], ENSEMBL[:4]], ad.read_h5ad(a).to_df(), check_names=False)
    pd.testing.assert_frame_equal(table.loc[["b0", "b1", "b2"], ENSEMBL[2:]], ad.read_h5ad(b).to_df())
    assert table.loc[["a0", "a1"], ENSEMBL[4:]].to_numpy().sum() == 0
    assert cells.var.loc[ENSEMBL, "symbol"].tolist() == SYMBOLS
    assert cells.facts.sha256 == sha256_json([sha256_file(a), sha256_file(b)])


def test_cell_ids_that_collide_between_files_get_the_name_of_their_file(tmp_path):
    cells = load(write(tmp_path / "a.h5ad", n=1), write(tmp_path / "b.h5ad", n=1))
    assert cells.obs_names.tolist() == ["a:c0", "b:c0"]
    (tmp_path / "x").mkdir()
    cells = load(tmp_path / "a.h5ad", write(tmp_path / "x" / "a.h5ad", n=1))
    assert cells.obs_names.tolist() == ["a-0:c0", "a-1:c0"]


def test_symbols_that_lead_to_no_id_are_not_joined_with_ids(tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.data.genes.joining.human_genes", lambda: GeneMap(ENSEMBL))
    a, b = write(tmp_path / "a.h5ad"), write(tmp_path / "b.h5ad", genes=SYMBOLS)
    with pytest.raises(GeneError, match="(?s)b.h5ad: 6 symbols, of which 0 are known.*one kind of gene ids"):
        load(a, b)


def test_files_of_different_species_are_refused(tmp_path):
    a = write(tmp_path / "a.h5ad")
    b = write(tmp_path / "b.h5ad", genes=[gene.replace("ENSG", "ENSMUSG") for gene in ENSEMBL])
    with pytest.raises(GeneError, match="Mus musculus"):
        load(a, b)


GOOD = np.random.default_rng(0).poisson(2.0, size=(4, 6)).astype(np.float32)


def spoiled(value):
    x = GOOD.copy()
    x[2, 3] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.log1p(GOOD), "(?s)no integers.*max.*go back to the file with raw counts"),
        (spoiled(np.nan), f"NaN at cell 'c2', gene '{ENSEMBL[3]}'"),
        (spoiled(np.inf), f"infinite value at cell 'c2', gene '{ENSEMBL[3]}'"),
        (spoiled(-1), f"negative value -1 at cell 'c2', gene '{ENSEMBL[3]}'"),
        (GOOD * 0, "no value but zero"),
    ],
    ids=["log-normalized", "NaN", "infinite", "negative", "empty"],
)
def test_what_is_not_counts_is_refused_by_name(tmp_path, x, message):
    with pytest.raises(CountsError, match=message) as caught:
        load(write(tmp_path / "a.h5ad", x=x))
    assert str(caught.value.where).endswith("a.h5ad") and caught.value.fix


def test_a_gene_id_that_stands_twice_is_refused(tmp_path):
    path = write(tmp_path / "a.h5ad", genes=[f"s{i}" for i in range(6)], gene_ids=[*ENSEMBL[:5], ENSEMBL[0]])
    with pytest.raises(GeneError, match=ENSEMBL[0]):
        load(path)


def test_a_cell_id_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="'x'"):
        load(write(tmp_path / "a.h5ad", n=3, obs=["x", "y", "x"]))


def test_a_truncated_file_is_one_clear_error(tmp_path):
    path = write(tmp_path / "a.h5ad", n=2000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="(?s)not a readable .h5ad file.*a.h5ad"):
        load(path)


def test_a_file_of_another_kind_and_a_missing_one_are_told_apart(tmp_path):
    (tmp_path / "a.h5ad").write_text("not HDF5")
    with pytest.raises(DataError, match="not a readable"):
        load(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "b.h5ad")


@pytest.mark.parametrize("key", ["label_key", "batch_key"])
def test_a_missing_key_gets_a_did_you_mean(tmp_path, key):
    with pytest.raises(DataError, match="(?s)did you mean 'kind'") as caught:
        load(write(tmp_path / "a.h5ad"), **{key: "kinds"})
    assert caught.value.where == f"data.{key}"


def card(folder, path, **over):
    source = {"kind": "mirror", "path": path.name}
    text = {
        "name": "mine", "title": "t", "kind": "cells", "organism": "o", "license": "l", "citation": "c",
        "label_key": "kind", "labels": ["b", "a"],
        "files": [{"name": path.name, "sha256": sha256_file(path), "sources": [source]}], **over,
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(text))
    return str(folder / "mine.yaml")


def test_labels_come_in_the_order_of_the_card(tmp_path):
    cells = load_cells(DataConfig(dataset=card(tmp_path, write(tmp_path / "a.h5ad"))))
    assert cells.obs["kind"].cat.categories.tolist() == ["b", "a"]
    assert cells.obs["kind"].tolist() == ["a", "b", "a", "b", "a"]


def test_a_label_the_card_does_not_know_is_refused(tmp_path):
    with pytest.raises(DataError, match="label 'b'"):
        load_cells(DataConfig(dataset=card(tmp_path, write(tmp_path / "a.h5ad"), labels=["a", "c"])))


def test_the_configuration_wins_over_the_card(tmp_path):
    cells = load_cells(DataConfig(dataset=card(tmp_path, write(tmp_path / "a.h5ad")), label_key="study"))
    assert cells.facts.label_key == "study"


def test_a_changed_file_is_not_loaded(tmp_path):
    path = write(tmp_path / "a.h5ad")
    name = card(tmp_path, path)
    write(path, seed=1)
    with pytest.raises(ChecksumError):
        load_cells(DataConfig(dataset=name))


def logged(path):
    """A file of log1p of counts per 10,000 of a depth that it does not name."""
    counts = np.array([[1, 0, 3, 0, 2, 7], [2, 1, 0, 0, 5, 1], [0, 4, 1, 1, 0, 0]])
    x = np.log1p(counts / np.array([[211.0], [307.0], [401.0]]) * 1e4)
    return counts, write(path, x=sparse.csr_matrix(x))


DERIVE = {"method": "log1p_cp10k_unknown_depth", "depth_key": "n_counts"}


def test_log_normalised_expression_is_refused_where_counts_are_needed_and_taken_as_it_is_elsewhere(tmp_path):
    _, path = logged(tmp_path / "a.h5ad")
    config = DataConfig(dataset=card(tmp_path, path, counts="X", expression="log1p"))
    with pytest.raises(CountsError, match="log-normalized expression and no counts"):
        load_cells(config)
    cells = load_cells(config, log_expression=True)
    assert (cells.facts.expression, cells.facts.counts) == ("log1p", None)
    np.testing.assert_array_equal(cells.X.toarray(), ad.read_h5ad(path).X.toarray().astype(np.float32))
    assert cells.total_counts is None


def test_counts_and_depth_are_found_in_log_normalised_values(tmp_path):
    counts, path = logged(tmp_path / "a.h5ad")
    config = DataConfig(dataset=card(tmp_path, path, counts="X", expression="log1p", derive=DERIVE))
    cells = load_cells(config)
    np.testing.assert_array_equal(cells.X.toarray(), counts)
    assert cells.obs["n_counts"].tolist() == [211, 307, 401] and cells.facts.expression is None
    assert cells.facts.counts == "X (log1p_cp10k_unknown_depth)"
    plain = load_cells(config, log_expression=True)
    assert "n_counts" not in plain.obs and plain.facts.expression == "log1p"
    with pytest.raises(DataError, match="a column 'kind' in obs already"):
        over = {"counts": "X", "derive": {**DERIVE, "depth_key": "kind"}}
        load_cells(DataConfig(dataset=card(tmp_path, path, **over)))
    with pytest.raises(CountsError, match="no counts and depth explain"):
        path = write(tmp_path / "b.h5ad", x=sparse.csr_matrix(np.random.default_rng(0).random((4, 6)) + 0.1))
        load_cells(DataConfig(dataset=card(tmp_path, path, counts="X", derive=DERIVE)))


def test_a_screen_says_what_was_done_to_a_cell(tmp_path):
    path = write(tmp_path / "a.h5ad")
    keys = {"key": "kind", "control": "a", "separator": "+", "covariate_key": "study"}
    cells = load_cells(DataConfig(dataset=card(tmp_path, path, perturbation=keys)))
    assert cells.facts.perturbation.model_dump() == keys
    with pytest.raises(DataError, match=r"no column 'kid'[\s\S]*did you mean 'kind'"):
        load_cells(DataConfig(dataset=card(tmp_path, path, perturbation={**keys, "key": "kid"})))


def test_two_files_and_one_of_labels_become_one_set_of_cells(tmp_path):
    one, two = write(tmp_path / "one.h5ad"), write(tmp_path / "two.h5ad", seed=1)
    table = pd.DataFrame({"side": list("lllllrrrrr"), "type": list("abcdeabcde")})
    table.index = [f"c{i % 5}-{i}" for i in range(10)]
    ad.AnnData(obs=table).write_h5ad(tmp_path / "labels.h5ad")

    def files(*roles):
        return [
            {"name": p.name, "sha256": sha256_file(p), "sources": [{"kind": "mirror", "path": p.name}], **role}
            for p, role in roles
        ]

    join = {
        "file": "labels.h5ad",
        "strip": r"^(one|two):|-\d+$",
        "within": {"side": "side"},
        "columns": {"type": "type"},
    }
    over = {
        "files": files((one, {}), (two, {}), (tmp_path / "labels.h5ad", {"role": "annotations"})),
        "label_key": "type", "labels": list("abcd"),
        "cells": {
            "constant": {"one.h5ad": {"side": "l"}, "two.h5ad": {"side": "r"}},
            "annotations": [join], "rows": {"type": list("abcd")},
        },
    }  # fmt: skip
    cells = load_cells(DataConfig(dataset=card(tmp_path, one, **over)))
    assert cells.obs["side"].tolist() == ["l"] * 4 + ["r"] * 4 and cells.obs["type"].tolist() == list("abcdabcd")
    assert cells.facts.sha256 == sha256_json([file["sha256"] for file in over["files"]])
    over["cells"]["rows"] = {"type": ["z"]}
    with pytest.raises(DataError, match="no cell with type z"):
        load_cells(DataConfig(dataset=card(tmp_path, one, **over)))
    over["cells"]["annotations"] = [{**join, "within": {}}]
    with pytest.raises(DataError, match="have the id of another"):
        load_cells(DataConfig(dataset=card(tmp_path, one, **over)))


def test_a_vocabulary_is_no_dataset():
    with pytest.raises(DataError, match="is a vocabulary"):
        load_cells(DataConfig(dataset="geneformer-v2"))


def shipped(name, **keys):
    try:
        return load_cells(DataConfig(dataset=name, **keys))
    except SourceError as error:
        pytest.skip(f"{name} cannot be fetched here: {error.found.splitlines()[0]}")


def test_pancreas_is_raw_counts_of_20_donors():
    cells = shipped("pancreas", split="donor")
    assert cells.shape == (3274, 33053) and cells.facts.counts == "raw.X"
    assert cells.X.sum() == pytest.approx(29_560_000, rel=0.01)
    assert cells.obs["donor_id"].nunique() == 20 and cells.obs["Dataset"].nunique() == 4
    assert cells.var.loc["ENSG00000141510", "symbol"] == "TP53"
    assert pd.Series(cells.split).value_counts().to_dict() == {"train": 1882, "test": 983, "valid": 409}


def test_pbmc68k_counts_are_recovered_and_do_not_exceed_their_depth():
    cells = shipped("pbmc68k_reduced", split="random")
    assert cells.shape == (700, 765) and cells.facts.counts == "raw.X (log1p_cp10k)"
    np.testing.assert_array_equal(cells.X.data, np.rint(cells.X.data))
    assert (np.asarray(cells.X.sum(axis=1)).ravel() <= cells.obs["n_counts"]).all()
