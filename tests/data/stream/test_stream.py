"""The stream: right counts for every cell, any number of threads, exact resume, arrangements, errors."""

import itertools

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import ConfigError, DataError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stream.arrange import arrange, entropy_bits
from scmf.data.stream.plan import Shape
from scmf.data.stream.reader import CellStream
from tests.conftest import synthetic_cells

SHAPE = Shape(batch_size=16, block_cells=8, buffer_blocks=12)


@pytest.fixture(scope="module")
def cells():
    return [synthetic_cells(500), synthetic_cells(333, seed=1)]


@pytest.fixture(scope="module")
def corpus(cells):
    return Corpus([MemoryStore(adata, name=f"store {i}") for i, adata in enumerate(cells)])


@pytest.fixture(scope="module")
def matrix(cells):
    return sp.vstack([adata.X for adata in cells]).tocsr()


@pytest.mark.parametrize(("threads", "world"), [(1, 1), (3, 1), (2, 3)])
def test_every_cell_comes_once_with_its_own_counts(corpus, matrix, threads, world):
    seen = []
    for rank in range(world):
        stream = CellStream(corpus, shape=SHAPE, rank=rank, world_size=world, layout="ragged", threads=threads)
        for batch in stream.epoch(2):
            assert (batch.counts(matrix.shape[1]).csr() != matrix[batch.cells]).nnz == 0
            assert np.allclose(batch.cell_tensors["n_counts"], matrix[batch.cells].sum(axis=1).A1)
            seen.append(batch.cells)
    assert sorted(np.concatenate(seen).tolist()) == list(range(corpus.n_cells))


def test_padded_rows_hold_the_counts_and_the_fill(corpus, matrix):
    batch = next(CellStream(corpus, shape=SHAPE).epoch(0))
    for row, cell in enumerate(batch.cells):
        n = batch.lengths[row]
        assert (batch.columns["indices"][row, :n] == matrix[cell].indices).all()
        assert (batch.columns["data"][row, :n] == matrix[cell].data).all()
        assert (batch.columns["indices"][row, n:] == -1).all()
        assert (batch.columns["data"][row, n:] == 0).all()


@pytest.mark.parametrize("how", ["shuffle", "length", "group", "stratify"])
def test_an_epoch_can_be_taken_up_at_any_batch(corpus, how):
    groups = np.arange(corpus.n_cells) % 3
    whole = [b.cells.tolist() for b in CellStream(corpus, shape=SHAPE, how=how, groups=groups, threads=1).epoch(1)]
    assert sorted(itertools.chain.from_iterable(whole)) == list(range(corpus.n_cells))
    for start in (0, 1, 5, 6, 7, 29, len(whole) - 1, len(whole)):
        stream = CellStream(corpus, shape=SHAPE, how=how, groups=groups, threads=3)
        assert [b.cells.tolist() for b in stream.epoch(1, start=start)] == whole[start:]


def test_fetches_before_the_start_are_not_read(corpus, monkeypatch):
    read = []
    original = MemoryStore.read
    monkeypatch.setattr(MemoryStore, "read", lambda self, spans: read.append(spans) or original(self, spans))
    stream = CellStream(corpus, shape=SHAPE)
    last = stream.batches_per_epoch - 1
    assert len(list(stream.epoch(0, start=last))) == 1
    assert sum(int((spans[:, 1] - spans[:, 0]).sum()) for spans in read) <= SHAPE.batch_size * SHAPE.batches_per_fetch


def test_values_that_travel_with_the_cells_stay_with_them(corpus):
    label = np.arange(corpus.n_cells) * 7
    for batch in CellStream(corpus, shape=SHAPE, cell_tensors={"label": label}).epoch(0):
        assert (batch.cell_tensors["label"] == batch.cells * 7).all()


def test_an_error_in_a_thread_reaches_the_consumer_and_leaves_no_thread(corpus, monkeypatch):
    def broken(self, spans):
        raise DataError("the file ends at byte 7", where=self.uri)

    monkeypatch.setattr(MemoryStore, "read", broken)
    with pytest.raises(DataError, match="ends at byte 7"):
        list(CellStream(corpus, shape=SHAPE).epoch(0))


def test_a_consumer_that_stops_early_leaves_no_thread(corpus):
    import threading

    before = threading.active_count()
    batches = CellStream(corpus, shape=SHAPE).epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_length_groups_pad_less(corpus):
    def padding(how):
        return sum(
            (b.columns["data"].size - b.lengths.sum()) for b in CellStream(corpus, shape=SHAPE, how=how).epoch(0)
        )

    assert padding("length") < 0.5 * padding("shuffle")


def test_group_batches_hold_one_group_and_stratified_ones_all(corpus):
    groups = (np.arange(corpus.n_cells) % 4).astype(np.int8)

    def bits(how):
        stream = CellStream(corpus, shape=SHAPE, how=how, groups=groups)
        return [entropy_bits(groups[batch.cells]) for batch in stream.epoch(0)][:-1]

    assert np.mean(bits("group")) < 0.5
    assert np.min(bits("stratify")) > 1.95
    assert np.mean(bits("shuffle")) < np.mean(bits("stratify"))


def test_mixing_grows_with_the_buffer_and_with_shorter_blocks(corpus):
    def bits(block, buffer):
        stream = CellStream(corpus, shape=Shape(16, block, buffer))
        return np.mean([entropy_bits(batch.cells // 8) for batch in stream.epoch(0)])

    assert bits(8, 2) < bits(8, 8) < bits(8, 64)
    assert bits(64, 8) < bits(8, 64)
    assert bits(1, 833) > 3.7  # log2(16) = 4 is the most


def test_entropy_is_that_of_the_shares():
    assert entropy_bits(np.array([1, 1, 1, 1])) == 0
    assert entropy_bits(np.arange(16)) == 4
    assert entropy_bits(np.array([0, 0, 0, 1])) == pytest.approx(0.811278, abs=1e-6)


def test_arranging_is_a_permutation_and_uniform_enough():
    edges = np.arange(0, 1025, 64)
    first = np.array([arrange(edges, np.random.default_rng(i))[0] for i in range(4000)])
    assert sorted(arrange(edges, np.random.default_rng(0)).tolist()) == list(range(1024))
    counts = np.bincount(first // 64, minlength=16)
    assert (((counts - 250) ** 2 / 250).sum()) < 37.7  # chi-square, 15 degrees of freedom, 0.001


def test_raw_counts_of_two_panels_cannot_stand_in_one_batch(cells):
    other = cells[1][:, ::-1].copy()
    with pytest.raises(ConfigError, match="2 gene panels"):
        CellStream(Corpus([MemoryStore(cells[0]), MemoryStore(other)]))


def test_the_wait_for_data_is_counted(corpus):
    stream = CellStream(corpus, shape=SHAPE)
    list(stream.epoch(0))
    assert stream.waiting.cells == corpus.n_cells
    assert 0 < stream.waiting.share <= 1


def test_stores_with_different_genes_meet_on_one_panel_and_are_preprocessed(cells, matrix):
    import scanpy as sc

    from scmf.data.preprocess.gene_aligner import GeneAligner
    from scmf.data.preprocess.normalize import Pipeline
    from scmf.data.preprocess.steps import LibrarySize, Log1p
    from scmf.data.stream.aligned import AlignedCounts

    other = cells[1][:, np.random.default_rng(0).permutation(120)].copy()
    corpus = Corpus([MemoryStore(cells[0]), MemoryStore(other)])
    aligner = GeneAligner.union(corpus.stores)
    expected = ad.concat([adata[:, list(aligner.genes)] for adata in cells], index_unique="-")
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    pipeline = Pipeline([LibrarySize(10_000), Log1p()])
    stream = CellStream(corpus, AlignedCounts(aligner, pipeline=pipeline), shape=SHAPE, layout="ragged")
    for batch in stream.epoch(0):
        ours, theirs = batch.counts(len(aligner)).csr().toarray(), expected.X[batch.cells].toarray()
        assert np.allclose(ours, theirs, rtol=1e-6)
        assert np.allclose(batch.cell_tensors["n_counts"], matrix[batch.cells].sum(axis=1).A1)
