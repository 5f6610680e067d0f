"""AnnData in zarr: every layout gives what anndata reads; damage is one clear error."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from scmf.core.errors import CountsError, DataError, GeneError
from scmf.data.stores.chunks.chunked_array import ChunkedArray
from scmf.data.stores.chunks.zarr_layout import ZarrPythonArray
from scmf.data.stores.zarr_store import ZarrStore
from tests.conftest import synthetic_cells

V3 = {
    "lz4": {"compressors": [BloscCodec(cname="lz4", shuffle="shuffle")]},
    "bitshuffle": {"compressors": [BloscCodec(cname="zstd", shuffle="bitshuffle", blocksize=256)]},
    "zstd": {"compressors": [ZstdCodec(level=3)]},
    "gzip": {"compressors": [GzipCodec()]},
    "none": {"compressors": []},
    "crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "only crc32c": {"compressors": [Crc32cCodec()]},
    "sharded lz4": {"shards": (4096,), "compressors": [BloscCodec(cname="lz4", shuffle="shuffle")]},
    "sharded none": {"shards": (4096,), "compressors": []},
    "sharded zstd crc32c": {"shards": (1024,), "compressors": [ZstdCodec(), Crc32cCodec()]},
}
V2 = ("default", "blosc", "zstd", "lz4", "gzip", "zlib", "shuffle zlib", "none")


def write_zarr(adata, path, *, zarr_format=3, chunks=512, **how):
    """Write as annbatch does: the arrays of sparse matrices with chunks, shards and codecs of our choice."""

    def with_layout(write, store, name, elem, dataset_kwargs, *, iospec):
        layout = {"chunks": (chunks,), **how} if iospec.encoding_type == "csr_matrix" else {}
        write(store, name, elem, dataset_kwargs=dict(dataset_kwargs) | layout)

    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    with ad.settings.override(zarr_write_format=zarr_format):
        ad.experimental.write_dispatched(group, "/", adata, callback=with_layout)
    return path


def v2_codecs(name):
    import numcodecs

    return {
        "default": {},
        "blosc": {"compressor": numcodecs.Blosc("lz4", 5, 1)},
        "zstd": {"compressor": numcodecs.Zstd(1)},
        "lz4": {"compressor": numcodecs.LZ4()},
        "gzip": {"compressor": numcodecs.GZip(1)},
        "zlib": {"compressor": numcodecs.Zlib(1)},
        "shuffle zlib": {"filters": [numcodecs.Shuffle(4)], "compressor": numcodecs.Zlib(1)},
        "none": {"compressor": None},
    }[name]


def assert_reads_as(store, matrix, *, seed=0, n_spans=12):
    """Random spans in random order equal the rows of ``matrix``."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, store.n_cells, n_spans)
    spans = np.stack([starts, np.minimum(starts + rng.integers(0, 40, n_spans), store.n_cells)], axis=1)
    block = store.read(spans)
    rows = np.concatenate([np.arange(a, b) for a, b in spans])
    assert block.data.dtype == np.float32
    np.testing.assert_array_equal(block.csr().toarray(), sp.csr_matrix(matrix)[rows].toarray())
    np.testing.assert_array_equal(np.diff(block.indptr), store.lengths[rows])


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(300)


@pytest.fixture
def sharded(cells, tmp_path):
    return write_zarr(cells, tmp_path / "cells.zarr", **V3["sharded lz4"])


@pytest.mark.parametrize("layout", V3)
def test_every_layout_of_zarr_3_reads_as_anndata_reads_it(cells, tmp_path, layout):
    path = write_zarr(cells, tmp_path / "cells.zarr", **V3[layout])
    store = ZarrStore(path)
    assert isinstance(store._data, ChunkedArray), "not on the fast path"
    assert store.genes == tuple(cells.var_names)
    assert_reads_as(store, ad.read_zarr(path).X)


@pytest.mark.parametrize("codec", V2)
def test_every_codec_of_zarr_2_reads_as_anndata_reads_it(cells, tmp_path, codec):
    path = write_zarr(cells, tmp_path / "cells.zarr", zarr_format=2, **v2_codecs(codec))
    store = ZarrStore(path)
    assert isinstance(store._data, ChunkedArray), "not on the fast path"
    assert_reads_as(store, ad.read_zarr(path).X)


def test_a_shard_index_may_stand_at_the_start(cells, tmp_path):
    path = write_zarr(cells, tmp_path / "cells.zarr")
    for name in ("data", "indices"):
        values = zarr.open_array(path / "X" / name)[:]
        shards = ShardingCodec(chunk_shape=(64,), codecs=[BytesCodec(), ZstdCodec()], index_location="start")
        array = zarr.create_array(
            path / "X" / name, shape=values.shape, chunks=(1024,), dtype=values.dtype, overwrite=True,
            serializer=shards, compressors=None,
        )  # fmt: skip
        array[:] = values
    assert_reads_as(ZarrStore(path), cells.X)


def test_what_the_fast_path_does_not_know_goes_through_zarr_python(cells, tmp_path):
    import numcodecs

    path = write_zarr(cells, tmp_path / "cells.zarr", zarr_format=2, compressor=numcodecs.BZ2())
    store = ZarrStore(path)
    assert isinstance(store._data, ZarrPythonArray)
    assert_reads_as(store, cells.X)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint8", "uint16"])
def test_counts_of_other_types_become_float32(cells, tmp_path, dtype):
    other = cells.copy()
    other.X = cells.X.astype(dtype)
    other.X.indices, other.X.indptr = other.X.indices.astype(np.int64), other.X.indptr.astype(np.int64)
    store = ZarrStore(write_zarr(other, tmp_path / "cells.zarr", **V3["sharded lz4"]))
    assert store._indices.dtype == np.int64
    assert_reads_as(store, cells.X)


def test_counts_are_found_in_layers_then_raw_then_x(cells, tmp_path):
    normal = cells.copy()
    normal.X = normal.X.copy()
    normal.X.data = np.log1p(normal.X.data)
    normal.raw = cells[:, ::-1].copy()
    assert ZarrStore(write_zarr(normal, tmp_path / "raw.zarr")).counts == "raw.X"
    store = ZarrStore(tmp_path / "raw.zarr")
    assert store.genes == tuple(cells.var_names[::-1])
    assert_reads_as(store, cells.X[:, ::-1])
    normal.layers["counts"] = cells.X
    assert ZarrStore(write_zarr(normal, tmp_path / "both.zarr")).counts == "layers/counts"
    del normal.layers["counts"], normal.raw
    normal.layers["spliced"] = cells.X
    path = write_zarr(normal, tmp_path / "none.zarr")
    with pytest.raises(CountsError, match="no integers") as error:
        ZarrStore(path)
    assert "layers/spliced" in str(error.value)
    assert ZarrStore(path, counts="layers/spliced").counts == "layers/spliced"
    with pytest.raises(DataError, match="did you mean 'layers/spliced'"):
        ZarrStore(path, counts="layers/splice")


def test_a_dense_matrix_is_read_as_sparse(cells, tmp_path):
    dense = cells.copy()
    dense.X = cells.X.toarray()
    write_zarr(dense, tmp_path / "cells.zarr")
    assert_reads_as(ZarrStore(tmp_path / "cells.zarr"), cells.X)


def test_columns_are_refused_with_the_way_out(cells, tmp_path):
    columns = cells.copy()
    columns.X = cells.X.tocsc()
    write_zarr(columns, tmp_path / "cells.zarr")
    with pytest.raises(DataError, match="scmf data convert"):
        ZarrStore(tmp_path / "cells.zarr")


def test_obs_and_var_are_those_of_anndata(cells, sharded):
    store = ZarrStore(sharded)
    wanted = cells.obs.reset_index(drop=True)
    pd.testing.assert_frame_equal(store.obs(["donor_id", "study"]), wanted[["donor_id", "study"]])
    assert store.obs_columns == list(cells.obs.columns)
    assert store.cell_ids().tolist() == cells.obs_names.tolist()
    assert store.var.index.tolist() == cells.var_names.tolist()
    with pytest.raises(DataError, match="did you mean 'donor_id'"):
        store.obs(["donor"])


def test_a_gene_that_stands_twice_is_refused(cells, tmp_path):
    twice = cells.copy()
    twice.var_names = [twice.var_names[0], *twice.var_names[:-1]]
    write_zarr(twice, tmp_path / "cells.zarr")
    with pytest.raises(GeneError, match="more than once"):
        ZarrStore(tmp_path / "cells.zarr")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_spans_in_any_order_give_their_rows(cells, tmp_path_factory, data):
    layout = data.draw(st.sampled_from(["lz4", "bitshuffle", "sharded lz4", "sharded none", "none"]))
    path = tmp_path_factory.getbasetemp() / f"spans {layout}.zarr"
    if not path.exists():
        write_zarr(cells, path, chunks=128, **V3[layout])
    edge = st.integers(0, cells.n_obs)
    spans = data.draw(st.lists(st.tuples(edge, edge).map(sorted), max_size=12))
    block = ZarrStore(path).read(np.array(spans, np.int64).reshape(-1, 2))
    rows = [row for a, b in spans for row in range(a, b)]
    np.testing.assert_array_equal(block.csr().toarray(), cells.X[rows].toarray())


def test_threads_that_read_at_once_get_their_own_rows(cells, sharded):
    store = ZarrStore(sharded)

    def read(seed):
        for turn in range(20):
            assert_reads_as(store, cells.X, seed=1000 * seed + turn)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


# --- damage ----------------------------------------------------------------------------------------


def read_all(path):
    store = ZarrStore(path)
    return store.read(np.array([[0, store.n_cells]]))


@pytest.mark.parametrize("part", ["data", "indices"])
def test_a_missing_shard_is_an_error_that_names_it(sharded, part):
    (sharded / "X" / part / "c" / "1").unlink()
    with pytest.raises(DataError, match=f"X/{part}/c/1") as error:
        read_all(sharded)
    assert "missing" in str(error.value)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_shard_is_an_error_that_names_it(sharded, keep):
    shard = sharded / "X" / "data" / "c" / "1"
    os.truncate(shard, int(shard.stat().st_size * keep))
    with pytest.raises(DataError, match="truncated") as error:
        read_all(sharded)
    assert str(shard) in str(error.value)


def test_a_flipped_byte_of_the_shard_index_is_found(sharded):
    shard = sharded / "X" / "data" / "c" / "1"
    stored = bytearray(shard.read_bytes())
    stored[-20] ^= 1
    shard.write_bytes(stored)
    with pytest.raises(DataError, match="crc32c"):
        read_all(sharded)


@pytest.mark.parametrize("layout", ["gzip", "crc32c", "only crc32c", "sharded zstd crc32c"])
def test_a_flipped_byte_is_found_where_the_codec_has_a_checksum(cells, tmp_path, layout):
    path = write_zarr(cells, tmp_path / "cells.zarr", **V3[layout])
    shard = path / "X" / "data" / "c" / "2"
    stored = bytearray(shard.read_bytes())
    stored[100] ^= 64
    shard.write_bytes(stored)
    with pytest.raises(DataError, match="X/data is damaged") as error:
        read_all(path)
    assert str(shard) in str(error.value)


@pytest.mark.parametrize("layout", ["lz4", "zstd", "none"])
def test_a_chunk_file_cut_short_is_found_without_a_checksum(cells, tmp_path, layout):
    path = write_zarr(cells, tmp_path / "cells.zarr", **V3[layout])
    chunk = path / "X" / "indices" / "c" / "3"
    os.truncate(chunk, chunk.stat().st_size - 7)
    with pytest.raises(DataError, match="X/indices"):
        read_all(path)


def test_a_file_replaced_while_it_is_read_is_an_error(cells, sharded):
    store = ZarrStore(sharded)
    known = store.fingerprint
    shard = sharded / "X" / "data" / "c" / "0"
    shutil.copy(shard, shard.with_suffix(".new"))
    shard.with_suffix(".new").replace(shard)
    with pytest.raises(DataError, match="replaced"):
        store.read(np.array([[0, 5]]))
    with pytest.raises(DataError, match="replaced"):
        store.obs(["study"])
    assert ZarrStore(sharded).fingerprint == known, "a copy holds the same cells"


def test_a_store_of_many_files_keeps_few_open_and_still_sees_a_replaced_one(cells, tmp_path):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("only Linux lists open files")
    path = write_zarr(cells, tmp_path / "cells.zarr", chunks=40)
    store = ZarrStore(path)
    assert_reads_as(store, cells.X)
    store.read(np.array([[0, store.n_cells]]))
    assert len(list((path / "X" / "data" / "c").iterdir())) > 256
    assert sum(1 for fd in Path("/proc/self/fd").iterdir() if str(path) in str(fd.resolve())) <= 256
    last = max((path / "X" / "data" / "c").iterdir(), key=lambda file: int(file.name))
    shutil.copy(last, last.with_suffix(".new"))
    last.with_suffix(".new").replace(last)
    with pytest.raises(DataError, match="replaced"):
        store.read(np.array([[295, 300]]))


def test_offsets_that_do_not_fit_the_values_are_refused(sharded):
    indptr = zarr.open_array(sharded / "X" / "indptr", mode="r+")
    wrong = indptr[:].copy()
    wrong[5], wrong[6] = wrong[6], wrong[5]
    indptr[:] = wrong
    with pytest.raises(DataError, match="does not rise"):
        ZarrStore(sharded)
    indptr[:] = np.append(np.sort(wrong)[:-1], wrong[-1] - 1)
    with pytest.raises(DataError, match="offsets of the cells end"):
        ZarrStore(sharded)


def test_a_chunk_left_out_as_fill_value_is_read_as_such(tmp_path):
    matrix = sp.csr_matrix((np.ones(100, np.float32), np.arange(100) // 50, np.arange(101)), shape=(100, 2))
    cells = ad.AnnData(matrix, var=pd.DataFrame(index=["ENSG00000000001", "ENSG00000000002"]))
    path = write_zarr(cells, tmp_path / "cells.zarr", chunks=10, shards=(100,), compressors=[])
    shard = path / "X" / "indices" / "c" / "0"
    assert shard.stat().st_size == 50 * 4 + 10 * 16 + 4  # zarr stores no chunk of zeros
    assert_reads_as(ZarrStore(path), matrix)
