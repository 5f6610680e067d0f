"""The leak audit finds planted copies and says nothing of honest cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import DataError
from scmf.data.splits import duplicates, leaks
from scmf.data.splits.duplicates import Signatures, gene_keys, row_hashes
from scmf.data.splits.leaks import audit_leaks
from scmf.data.splits.near_duplicates import GeneOrder, key_depth, similarities
from scmf.data.splits.read import shared_groups
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.store import CountBlock

N, G = 400, 3000
GENES = [f"ENSG{i:011d}" for i in range(1, G + 1)]


def counts(n=N, seed=0):
    """Counts of two kinds of cells over 3,000 genes, about 500 of them detected in a cell."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.15, 2.0, size=(2, G))
    depth = rng.lognormal(0, 0.3, size=(n, 1))
    return sp.csr_matrix(rng.poisson(rate[rng.integers(2, size=n)] * depth).astype(np.float32))


def cells_of(x, names=None, genes=GENES, **obs):
    index = names if names is not None else [f"c{i}" for i in range(x.shape[0])]
    return ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=list(genes)))


def halves(n):
    return np.where(np.arange(n) < n // 2, "train", "test")


def about(findings, words):
    found = [finding for finding in findings if words in finding.found]
    assert found, [finding.found for finding in findings]
    return found[0]


def test_honest_cells_have_no_finding_but_ok():
    found = audit_leaks(cells_of(counts()), halves(N))
    assert {finding.level for finding in found} == {"ok"} and len(found) == 3


def test_a_cell_copied_over_the_split_is_an_error_that_names_both():
    x = counts().tolil()
    x[390] = x[3]
    found = about(audit_leaks(cells_of(x.tocsr()), halves(N)), "2 cells have the same counts")
    assert found.level == "error" and "'c3' (train)" in found.found and "'c390' (test)" in found.found and found.do


def test_a_copy_within_a_part_and_empty_or_tiny_cells_are_no_leak():
    x = counts().tolil()
    x[5] = x[3]
    for cell in (10, 11, 390, 391):
        x[cell] = 0
    x[20], x[399] = 0, 0
    x[20, :3], x[399, :3] = 1, 1
    found = about(audit_leaks(cells_of(x.tocsr()), halves(N)), "no cell has the same counts")
    assert found.level == "ok"
    assert "2 cells have a copy within their part; 1 pairs of fewer than 20 genes" in found.found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_hash_is_of_gene_and_count_and_not_of_their_order_or_of_stored_zeros(seed):
    rng = np.random.default_rng(seed)
    x = counts(4, seed % 7)
    keys = gene_keys(GENES)
    block = CountBlock(x.indptr.astype(np.int64), x.indices, x.data, G)
    order = rng.permutation(G)
    shuffled = x[:, order].tocsr()
    other = CountBlock(shuffled.indptr.astype(np.int64), shuffled.indices, shuffled.data, G)
    assert (row_hashes(block, keys)[0] == row_hashes(other, gene_keys([GENES[i] for i in order]))[0]).all()
    zeros = sp.csr_matrix((np.r_[x.data, 0], np.r_[x.indices, G - 1], np.r_[x.indptr[:-1], x.nnz + 1]), shape=x.shape)
    padded = CountBlock(zeros.indptr.astype(np.int64), zeros.indices, zeros.data.astype(np.float32), G)
    hashes, detected = row_hashes(padded, keys)
    assert (hashes == row_hashes(block, keys)[0]).all()
    assert (detected == np.diff(x.indptr)).all()
    changed = x.copy()
    at = rng.integers(x.nnz)
    changed.data[at] += 1
    row = int(np.searchsorted(x.indptr, at, side="right")) - 1
    differ = (row_hashes(block._replace(data=changed.data), keys)[0] != row_hashes(block, keys)[0]).all(axis=1)
    assert differ.tolist() == [i == row for i in range(4)]


def test_swapped_counts_do_not_collide():
    keys = gene_keys(GENES)
    one, two = (
        CountBlock(np.array([0, 2]), np.array([0, 1]), np.array(data, np.float32), G) for data in ([1, 2], [2, 1])
    )
    assert (row_hashes(one, keys)[0] != row_hashes(two, keys)[0]).all()


def test_a_copy_in_another_file_with_its_genes_in_another_order_is_found():
    x = counts()
    order = np.random.default_rng(1).permutation(G)
    other = sp.vstack([counts(50, seed=5), x[7]])[:, order]
    one = MemoryStore(cells_of(x), name="one.h5ad")
    two = MemoryStore(cells_of(other, genes=[f"{GENES[i]}.3" for i in order]), name="two.h5ad")
    found = audit_leaks(Corpus([one, two]), np.r_[np.zeros(N, int), np.full(51, 2)])
    assert about(found, "have the same counts").level == "error"
    assert "'c7' (train) and 'c50' (test)" in about(found, "have the same counts").found
    assert about(found, "51 cell ids of different files").level == "warning"


# --- near duplicates ------------------------------------------------------------------------------


def spoiled(x, noise, kind, rng):
    """Copies with a share of the counts lost, or of the detected genes exchanged for others that are as common."""
    if kind == "subsample":
        y = x.copy()
        y.data = rng.binomial(y.data.astype(int), 1 - noise).astype(np.float32)
    else:
        y, often = x.tolil(), np.asarray((counts() > 0).mean(axis=0)).ravel()
        for row in range(x.shape[0]):
            mine = x.indices[x.indptr[row] : x.indptr[row + 1]]
            gone = rng.choice(mine, int(len(mine) * noise), replace=False)
            y[row, gone] = 0
            other = np.where(np.isin(np.arange(G), mine), 0, often)
            y[row, rng.choice(G, len(gone), replace=False, p=other / other.sum())] = 1
        y = y.tocsr()
    y.eliminate_zeros()
    return sp.csr_matrix(y)


@pytest.mark.parametrize("kind", ["subsample", "exchange"])
@pytest.mark.parametrize(("noise", "least"), [(0.01, 1.0), (0.05, 1.0), (0.1, 0.95)])
def test_planted_copies_are_found_and_nothing_else(noise, least, kind):
    x = counts()
    y = spoiled(x[:100], noise, kind, np.random.default_rng(2))
    found = about(
        audit_leaks(cells_of(sp.vstack([x, y])), np.r_[np.zeros(N, int), np.full(100, 2)]), "cells are nearly equal"
    )
    n = int(found.found.split(" ")[0])
    same = int((abs(x[:100] - y).sum(axis=1) == 0).sum())
    assert found.level == "error" and 2 * (100 - same) * least <= n <= 2 * (100 - same)


def test_similarity_equals_its_definition():
    x = counts(60)
    corpus = Corpus([MemoryStore(cells_of(x[:25]), name="a"), MemoryStore(cells_of(x[25:]), name="b")])
    order = GeneOrder(corpus)
    pairs = np.array([[0, 1], [3, 40], [59, 24], [7, 7]])
    jaccard, cosine = similarities(corpus, order, pairs)
    share = np.asarray((x > 0).mean(axis=0)).ravel()
    weight = 1 / np.sqrt(np.maximum(share, 1e-3))
    at = np.searchsorted(order.keys, gene_keys(GENES))
    assert order.weights[at] == pytest.approx(weight)
    for (a, b), found, angle in zip(pairs, jaccard, cosine, strict=True):
        one, two = x[a].toarray()[0], x[b].toarray()[0]
        both, either = (one > 0) & (two > 0), (one > 0) | (two > 0)
        assert found == pytest.approx(weight[both].sum() / weight[either].sum())
        one, two = np.log1p(one), np.log1p(two)
        assert angle == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two), rel=1e-5)


def test_a_small_panel_that_every_cell_expresses_raises_no_false_alarm():
    x = np.random.default_rng(0).poisson(3.0, size=(300, 150)).astype(np.float32)
    found = audit_leaks(cells_of(sp.csr_matrix(x), genes=GENES[:150]), halves(300))
    assert about(found, "were not looked for").level == "warning"


def test_pairs_that_were_left_out_are_a_warning(monkeypatch):
    monkeypatch.setattr(leaks, "_MOST_IN_RUN", 3)
    many = sp.vstack([counts(1)] * 20).tocsr()
    x = sp.vstack([spoiled(many, 0.002, "subsample", np.random.default_rng(0)), counts()])
    found = about(audit_leaks(cells_of(x.tocsr()), np.arange(N + 20) % 3), "cells are nearly equal")
    assert "pairs were left out" in found.found
    assert key_depth(3_000) == 5 and key_depth(1_000_000) == 8 and key_depth(100_000_000) == 14


def test_runs_of_equal_signatures_are_whole_in_every_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_BUCKET", 64)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 120, 1000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    signatures = Signatures(tmp_path / "s", 1000, 2)
    for start in range(0, 1000, 100):
        signatures.put(np.arange(start, start + 100), np.stack([values[start : start + 100]] * 2, axis=1))
    runs = {}
    for cells, edges in signatures.equal(1):
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            (value,) = set(values[cells[start:stop]].tolist())
            assert value not in runs
            runs[value] = sorted(cells[start:stop].tolist())
    wanted = pd.Series(np.arange(1000)).groupby(values).apply(list)
    assert runs == {value: run for value, run in wanted.items() if value and len(run) > 1}


# --- groups and ids -------------------------------------------------------------------------------


def test_a_donor_on_both_sides_is_an_error_only_where_the_split_claims_otherwise():
    donors = [f"d{i % 7}" for i in range(N)]
    cells = cells_of(counts(), donor_id=donors, batch=donors, study=["one"] * N)
    levels = {}
    for by in ("donor_id", ()):
        found = audit_leaks(cells, halves(N), by=by, donor_key="donor_id", batch_key="batch", near_duplicates=False)
        levels[by] = [about(found, f"7 of 7 values of '{name}'").level for name in ("donor_id", "batch")]
    assert levels == {"donor_id": ["error", "ok"], (): ["warning", "ok"]}
    whole = np.where(np.array(donors) < "d3", "train", "valid")
    found = audit_leaks(cells, whole, by="donor", near_duplicates=False)
    assert about(found, "each of 7 values of 'donor_id'").level == "ok"


def test_one_id_in_two_parts_is_an_error():
    names = [f"c{i}" for i in range(N - 1)] + ["c0"]
    found = audit_leaks(cells_of(counts(), names), halves(N), near_duplicates=False)
    assert about(found, "1 cell ids lie in two parts").level == "error"


@pytest.mark.parametrize("parts", [["train"] * 3, ["train"] * (N - 1) + ["dev"], np.full(N, 3)])
def test_parts_that_do_not_fit_the_cells_are_refused(parts):
    with pytest.raises(DataError, match="wanted: one of train, valid, test for each of 400 cells"):
        audit_leaks(cells_of(counts()), np.array(parts))


# --- conditions -----------------------------------------------------------------------------------


def audit_conditions(parts, column="condition", by=(), conditions=None):
    names = [name for name in parts for _ in range(20)]
    cells = cells_of(counts(len(names)), **{column: pd.Categorical(names)})
    found = audit_leaks(
        cells, np.array([parts[name] for name in names]), by=by, conditions=conditions, near_duplicates=False
    )
    return [finding.found for finding in found if finding.level == "error"]


@pytest.mark.parametrize("by", [(), ("condition",), ("perturbation",)])
@pytest.mark.parametrize(("one", "other"), [("A+B", "B+A"), ("A+ctrl", "ctrl+A"), ("A", "A+ctrl"), ("A+B", "A + B")])
def test_two_spellings_of_a_condition_in_two_parts_are_an_error(by, one, other):
    said = audit_conditions({"ctrl": "train", one: "train", other: "test", "C": "test"}, by=by)
    assert len(said) == 1 and "1 conditions of 'condition' lie in several parts" in said[0]
    assert repr(one) in said[0] and repr(other) in said[0]
    assert audit_conditions({"ctrl": "train", one: "test", other: "test", "C": "train"}, by=by) == []


def test_a_control_outside_train_is_an_error_where_conditions_are_kept_whole():
    parts = {"non_targeting": "valid", "A_B": "train", "B_A": "test", "C": "test"}
    how = {"separator": "_", "controls": ("non_targeting",)}
    said = audit_conditions(parts, column="guide", by=("guide",), conditions=how)
    assert any("'A_B' and 'B_A'" in found for found in said)
    assert any("control 'non_targeting' of 'guide' lies outside train" in found for found in said)
    assert len(said) == 2


@pytest.mark.parametrize("hole", [np.nan, None, "", "nan"])
def test_cells_without_a_donor_are_said_and_are_no_donor(hole):
    donors = np.array(["a"] * (N // 2) + ["b"] * (N // 2), dtype=object)
    donors[[3, 7, N - 1]] = hole
    found = audit_leaks(cells_of(counts(), donor_id=donors), halves(N), by="donor_id", near_duplicates=False)
    assert about(found, f"3 of {N} cells have no 'donor_id'").level == "warning"
    assert about(found, "each of 2 values of 'donor_id' lies in one part").level == "ok"
    assert shared_groups(pd.Series(halves(N)), donors) == {}
