"""Corpus statistics against the tokenizer's own medians, dense numpy and crick's digests of the official recipe."""

import anndata as ad
import crick
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.core import progress
from scmf.core.errors import ChecksumError, CountsError, DataError, GeneError
from scmf.data.preprocess.statistics import CorpusStatistics
from scmf.data.preprocess.statistics_pass import corpus_statistics
from scmf.data.preprocess.statistics_state import merge_states
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.tokenizers.rank_value import RankValueTokenizer
from tests.conftest import synthetic_cells


class Interrupted(Exception):
    """A pass is killed."""


def corpus_of(*parts):
    return Corpus([MemoryStore(part, name=f"part {i}") for i, part in enumerate(parts)])


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(900, seed=3)


def same(a, b):
    pd.testing.assert_frame_equal(a.table, b.table, check_exact=True)
    assert (a.n_cells, a.nnz, a.counts) == (b.n_cells, b.nnz, b.counts)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("min_cells", [1, 300])
def test_the_tables_are_those_the_tokenizer_fits(cells, exact, min_cells):
    fitted = RankValueTokenizer.fit(cells.X, cells.var_names, min_cells=min_cells, max_length=64, special_tokens=True)
    found = corpus_statistics(corpus_of(cells[:400], cells[400:]), exact=exact, cells_per_block=97)
    token_ids, medians = found.tables(min_cells=min_cells, special_tokens=True)
    assert token_ids == fitted.get_vocab()
    assert medians == fitted.medians
    assert list(found.tables(min_cells=min_cells)[0])[:3] == ["<pad>", "<mask>", min(medians)]


def test_counts_and_cells_are_those_of_the_matrix(cells):
    found = corpus_statistics(corpus_of(cells))
    dense = cells.X.toarray()
    np.testing.assert_array_equal(found.n_cells_G, (dense > 0).sum(axis=0))
    np.testing.assert_array_equal(found.counts_G, dense.sum(axis=0, dtype=float))
    assert (found.n_cells, found.nnz, found.counts) == (900, np.count_nonzero(dense), dense.sum(dtype=float))


def test_medians_of_many_values_stay_close_to_exact_and_to_cricks():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 3.0, size=(30_000, 8))).astype(np.float32)
    counts[:, 7] += 50
    cells = ad.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(8)]))
    found = corpus_statistics(corpus_of(cells), buffer=256)
    exact = corpus_statistics(corpus_of(cells), exact=True)
    np.testing.assert_array_equal(found.n_cells_G, exact.n_cells_G)
    scaled = counts / counts.sum(axis=1, dtype=float)[:, None] * 10_000
    for gene in range(8):
        values = scaled[:, gene][counts[:, gene] > 0]
        below, upto = (values < found.medians_G[gene]).mean(), (values <= found.medians_G[gene]).mean()
        assert max(0, below - 0.5, 0.5 - upto) < 5e-3
        assert exact.medians_G[gene] == np.median(values)
        official = crick.TDigest()
        for chunk in np.array_split(np.where(counts[:, gene] > 0, scaled[:, gene], np.nan), 12):
            official.update(chunk)
        assert found.medians_G[gene] == pytest.approx(official.quantile(0.5), rel=0.02)


def test_the_result_does_not_depend_on_threads_or_blocks(cells):
    one = corpus_statistics(corpus_of(cells), threads=1, cells_per_block=900, buffer=16)
    three = corpus_statistics(corpus_of(cells), threads=3, cells_per_block=50, buffer=16)
    same(one, three)


def test_cells_left_out_count_nowhere(cells):
    keep = np.random.default_rng(1).random(900) < 0.4
    same(corpus_statistics(corpus_of(cells), keep=keep), corpus_statistics(corpus_of(cells[keep].copy())))


@pytest.mark.parametrize("exact", [True, False])
def test_stores_with_other_genes_meet_in_the_union_and_versions_are_summed(cells, exact):
    left, right = cells[:450, :80].copy(), cells[450:, 40:].copy()
    left.var_names = [f"{gene}.7" for gene in left.var_names]
    twice = ad.concat([right, right[:, :5]], axis=1, merge="first")
    twice.var_names = [*right.var_names, *(f"{gene.lower()}.2" for gene in right.var_names[:5])]
    found = corpus_statistics(corpus_of(left, twice), exact=exact)
    assert found.genes == tuple(cells.var_names)
    fitted = RankValueTokenizer.fit(twice.X, twice.var_names, min_cells=1, max_length=64, special_tokens=False)
    alone = corpus_statistics(corpus_of(twice), exact=exact)
    assert alone.tables()[1] == fitted.medians
    assert found.counts_G.sum() == left.X.sum(dtype=float) + twice.X.sum(dtype=float)


def test_genes_asked_for_or_mapped(cells):
    everything = corpus_statistics(corpus_of(cells))
    wanted = [cells.var_names[5], "ENSG99999999999", f"{cells.var_names[2]}.3"]
    some = corpus_statistics(corpus_of(cells), genes=wanted)
    assert some.genes == (cells.var_names[2], cells.var_names[5], "ENSG99999999999")
    assert np.isnan(some.medians_G[2]) and some.n_cells_G[2] == 0
    np.testing.assert_array_equal(some.medians_G[:2], everything.medians_G[[2, 5]])
    mapped = corpus_statistics(corpus_of(cells), genes={cells.var_names[0]: "A", cells.var_names[1]: "A"})
    assert mapped.genes == ("A",)
    assert mapped.n_cells_G[0] == np.count_nonzero(cells.X[:, :2].sum(axis=1))
    with pytest.raises(GeneError):
        corpus_statistics(corpus_of(cells), genes={"nothing": "A"})


def test_totals_may_come_from_obs(cells):
    part = cells[:, :30].copy()
    part.obs["n_counts"] = np.asarray(cells.X.sum(axis=1)).ravel()
    found = corpus_statistics(corpus_of(part), n_counts="n_counts", exact=True)
    np.testing.assert_array_equal(found.medians_G, corpus_statistics(corpus_of(cells), exact=True).medians_G[:30])
    part.obs.loc["cell7", "n_counts"] = 0
    with pytest.raises(CountsError, match="cell number 7"):
        corpus_statistics(corpus_of(part), n_counts="n_counts")


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_count_is_named(cells, bad):
    store = MemoryStore(cells)
    store._matrix = store._matrix.copy()
    store._matrix.data[store._matrix.indptr[123]] = bad
    with pytest.raises(CountsError, match="cell number 123"):
        corpus_statistics(Corpus([store]))


@pytest.mark.parametrize("keep", [None, np.arange(900) % 3 > 0])
def test_a_killed_pass_goes_on_to_the_same_bits(cells, tmp_path, keep, monkeypatch):
    state = tmp_path / "pass.npz"

    def kill(bar, done, note=""):
        if done > 350:
            raise Interrupted

    settings = {"keep": keep, "buffer": 16, "cells_per_block": 64}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(progress.Bar, "move_to", kill)
        corpus_statistics(corpus_of(cells), **settings, state=state, save_every=100)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(progress.Bar, "move_to", lambda bar, done, note="": seen.append(done))
        again = corpus_statistics(corpus_of(cells), **settings, state=state, save_every=100)
    assert 200 < seen[0] < 450, "it starts where it was saved, not from nothing"
    same(again, corpus_statistics(corpus_of(cells), **settings))
    same(again, corpus_statistics(corpus_of(cells), **settings, state=state))
    with pytest.raises(DataError, match="another pass"):
        corpus_statistics(corpus_of(cells[:800].copy()), **(settings | {"keep": None}), state=state)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(DataError, match="not a state"):
        corpus_statistics(corpus_of(cells), **settings, state=state)


def test_states_of_shards_merge_to_the_statistics_of_all(cells, tmp_path):
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    for path, rows in zip(paths, np.array_split(np.arange(900), 3), strict=True):
        corpus_statistics(corpus_of(cells[rows, : 100 + len(rows) // 20].copy()), state=path)
    merged = merge_states(paths)
    whole = corpus_statistics(corpus_of(cells[:, :115].copy()))
    same(merged, whole)
    assert len(merged.provenance["merged"]) == 3
    corpus_statistics(corpus_of(cells), compression=50, state=tmp_path / "other.npz")
    with pytest.raises(DataError, match="definition"):
        merge_states([*paths, tmp_path / "other.npz"])
    (tmp_path / "copy.npz").write_bytes(paths[0].read_bytes())
    with pytest.raises(DataError, match="twice"):
        merge_states([*paths, tmp_path / "copy.npz"])


@pytest.mark.parametrize("table", ["tsv.gz", "parquet"])
def test_files_hold_all_and_notice_a_change(cells, tmp_path, table):
    found = corpus_statistics(corpus_of(cells), genes=[*cells.var_names, "NA", "nan"])
    path = found.save(tmp_path / "medians.json", table=table)
    loaded = CorpusStatistics.load(path)
    same(loaded, found)
    assert loaded.genes == found.genes
    assert (loaded.definition, loaded.provenance) == (found.definition, found.provenance)
    assert loaded.provenance["fingerprint"] == corpus_of(cells).fingerprint
    beside = tmp_path / f"medians.{table}"
    before = beside.read_bytes()
    found.save(path, table=table)
    assert beside.read_bytes() == before
    beside.write_bytes(before[:-1] + b"x")
    with pytest.raises(ChecksumError):
        CorpusStatistics.load(path)
    with pytest.raises(DataError, match="json"):
        found.save(tmp_path / "medians.csv")
