"""One AnnData zarr group in pieces, against zarr-python and anndata."""

from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.data.convert.zarr_writer import DatasetWriter, chunk_size, read_back, shard_size, write_root


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def counts(n_cells, n_genes, density=0.3, seed=0):
    matrix = sp.random(n_cells, n_genes, density=density, format="csr", rng=np.random.default_rng(seed))
    matrix.data = np.ceil(matrix.data * 9).astype(np.float32)
    matrix.sort_indices()
    return matrix.astype(np.float32)


def write(path, matrix, pool, *, pieces=(), chunk=104, chunks_per_shard=3):
    writer = DatasetWriter(path, matrix.shape[1], pool=pool, chunk=chunk, chunks_per_shard=chunks_per_shard)
    for part in np.split(np.arange(matrix.shape[0]), list(pieces)):
        rows = matrix[part]
        writer.append(np.diff(rows.indptr), rows.indices, rows.data)
    obs = pd.DataFrame(
        {"source": pd.Categorical(["a"] * matrix.shape[0]), "source_row": np.arange(matrix.shape[0])},
        index=[f"c{i}" for i in range(matrix.shape[0])],
    )
    writer.finish(obs, pd.DataFrame(index=[f"g{i}" for i in range(matrix.shape[1])]))
    return writer


@settings(max_examples=25, deadline=None)
@given(
    n_cells=st.integers(1, 60),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    chunk=st.integers(1, 50).map(lambda n: 8 * n),
    chunks_per_shard=st.integers(1, 5),
    data=st.data(),
)
def test_what_is_appended_in_pieces_is_what_anndata_reads(
    tmp_path_factory, pool, n_cells, density, chunk, chunks_per_shard, data
):
    matrix = counts(n_cells, 20, density)
    pieces = sorted(data.draw(st.lists(st.integers(0, n_cells), max_size=4)))
    path = tmp_path_factory.mktemp("w") / "dataset_0"
    write(path, matrix, pool, pieces=pieces, chunk=chunk, chunks_per_shard=chunks_per_shard).publish()
    read = ad.read_zarr(path)
    assert read.X.format == "csr" and read.X.dtype == np.float32 and read.X.indices.dtype == np.int32
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())


def test_metadata_and_sizes_are_those_of_zarr_python(tmp_path, pool):
    # The same array written by zarr-python: equal metadata and, chunk by chunk, equal bytes.
    matrix = counts(40, 50)
    write(tmp_path / "ours", matrix, pool).publish()
    group = zarr.open_group(str(tmp_path / "theirs"), mode="w", zarr_format=3)
    for name, dtype in (("data", np.float32), ("indices", np.int32)):
        lz4 = zarr.codecs.BloscCodec(cname="lz4hc", clevel=5, shuffle="shuffle")
        values = getattr(matrix, name).astype(dtype)
        group.create_array(name, data=values, chunks=(104,), shards=(312,), compressors=[lz4])
        ours, theirs = tmp_path / "ours" / "X" / name, tmp_path / "theirs" / name
        assert zarr.open_array(ours).metadata == zarr.open_array(theirs).metadata
        for shard in sorted((theirs / "c").iterdir()):
            assert (ours / "c" / shard.name).read_bytes() == shard.read_bytes()


def test_scipy_may_change_in_place_what_anndata_read(tmp_path, pool):
    # With uint16 columns, which annbatch writes, scipy raises "Output dtype not compatible with inputs" here.
    write(tmp_path / "d", counts(40, 50), pool).publish()
    read = ad.read_zarr(tmp_path / "d").X
    read.data[::3] = 0
    wanted = sp.csr_matrix(read.toarray())
    read.eliminate_zeros()
    assert read.nnz == wanted.nnz and (read != wanted).nnz == 0


def test_chunks_are_a_power_of_two_near_sixteen_cells_and_datasets_one_shard_where_they_fit():
    assert [chunk_size(mean) for mean in (0, 5, 2000, 3000, 1e6)] == [1024, 1024, 32_768, 65_536, 131_072]
    assert [shard_size(values, 1024) for values in (0, 1024, 1025, 10_000, 1e12)] == [1, 1, 2, 16, 4096]


def test_a_damaged_shard_index_is_refused_by_zarr_python(tmp_path, pool):
    write(tmp_path / "d", counts(40, 50), pool).publish()
    shard = tmp_path / "d" / "X" / "data" / "c" / "0"
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(tmp_path / "d" / "X" / "data")[:]


def test_nothing_has_the_final_name_before_the_end(tmp_path, pool):
    writer = write(tmp_path / "d", counts(10, 5), pool)
    assert not (tmp_path / "d").exists()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_try_left_is_removed(tmp_path, pool):
    (tmp_path / ".d.partial" / "X" / "data" / "c").mkdir(parents=True)
    (tmp_path / ".d.partial" / "X" / "data" / "c" / "99").write_bytes(b"old")
    write(tmp_path / "d", counts(10, 5), pool).publish()
    assert not (tmp_path / "d" / "X" / "data" / "c" / "99").exists()


def test_read_back_gives_all_cells_with_their_sources(tmp_path, pool, monkeypatch):
    monkeypatch.setattr("scmf.data.convert.zarr_writer._READ_BACK", 300)
    matrix = counts(100, 50)
    write(tmp_path / "d", matrix, pool).publish()
    parts = list(read_back(tmp_path / "d", ["z", "a"]))
    assert len(parts) > 3
    np.testing.assert_array_equal(np.concatenate([part[0][0] for part in parts]), np.diff(matrix.indptr))
    np.testing.assert_array_equal(np.concatenate([part[0][1] for part in parts]), matrix.indices)
    np.testing.assert_array_equal(np.concatenate([part[0][2] for part in parts]), matrix.data)
    assert set(np.concatenate([part[1] for part in parts])) == {1}
    np.testing.assert_array_equal(np.concatenate([part[2] for part in parts]), np.arange(100))


def test_a_collection_is_a_zarr_group_of_datasets_with_the_mark_of_annbatch(tmp_path, pool):
    for i in range(2):
        write(tmp_path / f"dataset_{i}", counts(10, 5, seed=i), pool).publish()
    write_root(tmp_path, {"seed": 3})
    group = zarr.open_group(str(tmp_path), mode="r")
    assert sorted(group.keys()) == ["dataset_0", "dataset_1"]
    assert group.attrs["encoding-type"] == "annbatch-preshuffled"
    assert group.attrs["scmf"] == {"seed": 3}
