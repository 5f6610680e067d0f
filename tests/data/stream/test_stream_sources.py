"""The whole stream over every kind of source, and through injected faults: each cell once, or one clear error."""

import anndata as ad
import numpy as np
import pytest

from scmf.core.errors import DataError
from scmf.data.convert.convert import convert
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.files.retries import Retries
from scmf.data.stores.open import open_stores
from scmf.data.stream.plan import Shape
from scmf.data.stream.reader import CellStream
from tests.conftest import synthetic_cells
from tests.fixtures.servers import serve

SHAPE = Shape(batch_size=16, block_cells=8, buffer_blocks=8)
N_CELLS = 600


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(N_CELLS)


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    """The same cells as h5ad, gzip h5ad, and a collection of our own."""
    root = tmp_path_factory.mktemp("sources")
    cells.write_h5ad(root / "plain.h5ad")
    cells.write_h5ad(root / "gzip.h5ad", compression="gzip")
    convert([root / "plain.h5ad"], root / "ours.zarr", cells_per_dataset=256, shuffle=False)
    return root


def streamed(stores, matrix):
    """Every cell that an epoch gives, each compared with its own counts."""
    corpus = Corpus(stores)
    seen = []
    for batch in CellStream(corpus, shape=SHAPE, layout="ragged").epoch(0):
        assert (batch.counts(matrix.shape[1]).csr() != matrix[batch.cells]).nnz == 0
        seen += batch.cells.tolist()
    assert sorted(seen) == list(range(matrix.shape[0]))


@pytest.mark.parametrize("kind", ["plain.h5ad", "gzip.h5ad", "ours.zarr"])
def test_files_on_disk(folder, cells, kind):
    streamed(open_stores([folder / kind]), cells.X)


@pytest.mark.parametrize("kind", ["plain.h5ad", "ours.zarr"])
def test_an_s3_server(folder, cells, kind, s3):
    pytest.importorskip("obstore")
    if (folder / kind).is_dir():
        s3.put_folder(folder / kind, f"cells/{kind}")
    else:
        s3.put(f"cells/{kind}", (folder / kind).read_bytes())
    streamed(open_stores([f"{s3.url}/cells/{kind}"], storage_options=s3.options), cells.X)


def test_a_census(tmp_path):
    pytest.importorskip("tiledbsoma")
    from scmf.data.stores.soma.census import open_census
    from tests.fixtures import mini_census

    census = mini_census.build(tmp_path / "census")
    kept = np.flatnonzero(census.obs["is_primary_data"] & (census.obs["tissue_general"] == "lung"))
    store = open_census(uri=census.uri, value_filter="tissue_general == 'lung'")
    streamed([store], census.counts[kept].astype(np.float32))
    store.close()


@pytest.mark.parametrize("kind", ["plain.h5ad", "ours.zarr/dataset_0"])
def test_connections_that_drop_are_tried_again_and_no_cell_is_lost(folder, cells, kind, http_files, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setitem(Retries.__init__.__kwdefaults__, "first_wait_s", 0.001)
    address = f"{serve(folder, kind.split('/')[0], http_files).rsplit('/', 1)[0]}/{kind}"
    rng = np.random.default_rng(0)
    http_files.faults = [str(one) if one else None for one in rng.choice([None, None, None, "drop", "503"], 400)]
    stores = open_stores([address])
    streamed(stores, cells.X[: stores[0].n_cells])
    assert sum(count for fault, count in http_files.injected.items() if fault) > 0


def copied(folder, kind, tmp_path):
    import shutil

    (shutil.copytree if (folder / kind).is_dir() else shutil.copy)(folder / kind, tmp_path / kind)
    return tmp_path / kind


def test_a_shard_cut_short_stops_the_stream_and_names_the_file(folder, tmp_path):
    path = copied(folder, "ours.zarr", tmp_path)
    shard = max((file for file in path.rglob("data/c/*") if file.is_file()), key=lambda file: file.stat().st_size)
    corpus = Corpus(open_stores([path]))
    with shard.open("r+b") as handle:
        handle.truncate(shard.stat().st_size * 2 // 3)
    with pytest.raises(DataError) as caught:
        list(CellStream(corpus, shape=SHAPE).epoch(0))
    assert shard.name in str(caught.value.where) or "dataset_" in str(caught.value.where)


@pytest.mark.parametrize("kind", ["plain.h5ad", "gzip.h5ad"])
def test_a_file_replaced_in_the_middle_of_an_epoch_stops_the_stream(folder, cells, kind, tmp_path):
    path = copied(folder, kind, tmp_path)
    corpus = Corpus(open_stores([path]))
    other = ad.AnnData(cells.X[::-1].copy(), obs=cells.obs.copy(), var=cells.var.copy())
    seen = 0
    with pytest.raises(DataError, match="replaced"):
        for batch in CellStream(corpus, shape=SHAPE, layout="ragged", threads=1).epoch(0):
            seen += len(batch.cells)
            if seen == SHAPE.batch_size:
                path.unlink()
                other.write_h5ad(path)
    assert seen < N_CELLS


@pytest.mark.slow
def test_memory_of_a_stream_does_not_grow_with_the_corpus(folder):
    import tracemalloc

    def peak(repeats):
        corpus = Corpus(open_stores([folder / "plain.h5ad"]) * repeats)
        stream = CellStream(corpus, shape=SHAPE)
        sum(len(batch.cells) for batch in stream.epoch(0))
        tracemalloc.start()
        sum(len(batch.cells) for batch in stream.epoch(1))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # 17,400 cells more: the plan holds 16 bytes a block of 8 cells, the batches nothing
    assert peak(30) - peak(1) < 600_000
