"""AnnData in HDF5: every layout gives what anndata reads; damage is one clear error."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmf.core.errors import CountsError, DataError
from scmf.data.stores.chunks.chunked_array import ChunkedArray
from scmf.data.stores.chunks.h5ad_layout import H5pyArray
from scmf.data.stores.files.byte_ranges import LocalFiles
from scmf.data.stores.h5ad_store import H5adStore
from tests.conftest import synthetic_cells
from tests.data.stores.test_zarr_store import assert_reads_as

LAYOUTS = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "gzip shuffle": {"compression": "gzip", "shuffle": True},
    "lzf": {"compression": "lzf"},
    "fletcher32": {"fletcher32": True},
    "contiguous": None,
    "small chunks": {"compression": "gzip", "shuffle": True, "chunks": (37,)},
    "small plain chunks": {"chunks": (37,)},
}
DIRECT = [name for name in LAYOUTS if name not in ("lzf", "fletcher32")]


def lay_out(path, how, *, of="X"):
    """Write the two arrays of a sparse matrix again in another layout."""
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            values, attrs = file[of][name][:], dict(file[of][name].attrs)
            del file[of][name]
            made = file[of].create_dataset(name, data=values, **(how or {}))
            made.attrs.update(attrs)
    return path


class Remote(LocalFiles):
    """Files of this machine that say they are far away, and count what is asked of them."""

    is_local = False
    n_requests = 0

    def read_ranges(self, name, ranges, outs):
        self.n_requests += 1
        super().read_ranges(name, ranges, outs)


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(300)


@pytest.fixture
def plain(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("files", [LocalFiles, Remote])
def test_every_layout_reads_as_anndata_reads_it(plain, layout, files):
    store = H5adStore(files(lay_out(plain, LAYOUTS[layout])))
    assert isinstance(store._data, ChunkedArray if layout in DIRECT else H5pyArray)
    assert_reads_as(store, ad.read_h5ad(plain).X)


def test_a_remote_file_is_read_with_few_requests(plain):
    source = Remote(lay_out(plain, LAYOUTS["small chunks"]))
    store = H5adStore(source)
    before = source.n_requests
    store.read(np.array([[0, 50], [100, 150]]))
    assert source.n_requests - before <= 3  # data, indices, and perhaps a block with places of chunks


def test_filters_that_hdf5_left_out_of_a_chunk_are_not_undone(plain, cells):
    with h5py.File(plain, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        made = file["X"].create_dataset(
            "data", shape=values.shape, dtype="f4", chunks=(64,), compression="gzip", shuffle=True
        )
        made[:] = values
        made.id.write_direct_chunk((0,), values[:64].tobytes(), filter_mask=3)
        shuffled = np.frombuffer(values[64:128].tobytes(), np.uint8).reshape(64, 4).T.tobytes()
        made.id.write_direct_chunk((64,), shuffled, filter_mask=2)
    assert_reads_as(H5adStore(plain), cells.X)
    np.testing.assert_array_equal(H5adStore(plain).read(np.array([[0, 300]])).csr().toarray(), cells.X.toarray())


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint16", ">f4"])
def test_counts_of_other_types_become_float32(cells, tmp_path, dtype):
    other = cells.copy()
    other.X = cells.X.copy()
    other.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        file["X"].create_dataset("data", data=values.astype(dtype), chunks=(100,))
    assert_reads_as(H5adStore(tmp_path / "cells.h5ad"), cells.X)


def test_raw_and_layers_are_found(cells, tmp_path):
    normal = cells.copy()
    normal.X = normal.X.copy()
    normal.X.data = np.log1p(normal.X.data)
    normal.raw = cells[:, ::-1].copy()
    normal.write_h5ad(tmp_path / "cells.h5ad")
    store = H5adStore(tmp_path / "cells.h5ad")
    assert (store.counts, store.genes) == ("raw.X", tuple(cells.var_names[::-1]))
    assert_reads_as(store, cells.X[:, ::-1])
    with pytest.raises(CountsError, match="X holds .* no integers"):
        H5adStore(tmp_path / "cells.h5ad", counts="X")


def test_one_bad_value_in_the_sample_is_named(cells, tmp_path):
    bad = cells.copy()
    bad.X = bad.X.copy()
    bad.X.data[0] = np.nan
    bad.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(CountsError, match="NaN at cell 'number 0', gene 'ENSG"):
        H5adStore(tmp_path / "cells.h5ad")


def test_a_count_that_float32_cannot_hold_is_refused(cells, tmp_path):
    large = cells.copy()
    large.X = large.X.astype(np.int64)
    large.X.data[3] = 2**24 + 1
    large.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(CountsError, match="beyond what float32 holds"):
        H5adStore(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("how", [{}, {"compression": "gzip"}])
def test_a_dense_matrix_is_read_as_sparse(cells, tmp_path, how):
    dense = cells.copy()
    dense.X = cells.X.toarray()
    dense.write_h5ad(tmp_path / "cells.h5ad", **how)
    assert_reads_as(H5adStore(tmp_path / "cells.h5ad"), cells.X)


def test_columns_are_refused_with_the_way_out(cells, tmp_path):
    columns = cells.copy()
    columns.X = cells.X.tocsc()
    columns.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match="scmf data convert"):
        H5adStore(tmp_path / "cells.h5ad")


def test_columns_of_obs_keep_their_type(cells, tmp_path):
    rich = cells.copy()
    rich.obs["n"] = np.arange(len(rich))
    rich.obs["share"] = np.linspace(0, 1, len(rich))
    rich.obs["text"] = [f"t{i % 7}" for i in range(len(rich))]
    rich.obs["maybe"] = pd.array([None, *range(1, len(rich))], dtype="Int64")
    rich.obs["flag"] = rich.obs["n"] % 2 == 0
    rich.obs["stage"] = pd.Categorical(rich.obs["text"], categories=[f"t{i}" for i in range(7)], ordered=True)
    rich.write_h5ad(tmp_path / "cells.h5ad")
    columns = ["share", "n", "text", "maybe", "flag", "stage", "cell_type"]
    wanted = ad.read_h5ad(tmp_path / "cells.h5ad").obs.reset_index(drop=True)[columns]
    store = H5adStore(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(store.obs(columns), wanted)
    assert store.obs([]).shape == (300, 0)
    assert store.cell_ids().tolist() == cells.obs_names.tolist()


def test_obs_of_anndata_0_7_and_0_6_is_read(plain, cells):
    with h5py.File(plain, "r+") as file:  # 0.7: codes with a pointer to __categories
        kinds = cells.obs["cell_type"].cat
        del file["obs/cell_type"]
        names = file["obs"].create_dataset(
            "__categories/cell_type", data=list(kinds.categories), dtype=h5py.string_dtype()
        )
        names.attrs["ordered"] = False
        codes = file["obs"].create_dataset("cell_type", data=kinds.codes)
        codes.attrs["categories"] = names.ref
        file["obs"].attrs["encoding-version"] = "0.1.0"
    wanted = cells.obs[["cell_type"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(H5adStore(plain).obs(["cell_type"]), wanted)
    with h5py.File(plain, "r+") as file:  # 0.6: records, names in uns
        fields = [("index", "S10"), ("cell_type", "i1"), ("study", "S5"), ("depth", "f4")]
        records = np.zeros(len(cells), fields)
        records["index"], records["cell_type"] = cells.obs_names.to_numpy().astype("S10"), kinds.codes
        records["study"], records["depth"] = cells.obs["study"].to_numpy().astype("S5"), np.arange(len(cells))
        del file["obs"]
        file["obs"] = records
        file.require_group("uns").create_dataset(
            "cell_type_categories", data=list(kinds.categories), dtype=h5py.string_dtype()
        )
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", file["X"].attrs["shape"]
        for name in ("encoding-type", "encoding-version", "shape"):
            del file["X"].attrs[name]
    store = H5adStore(plain)
    pd.testing.assert_frame_equal(store.obs(["cell_type"]), wanted)
    assert store.obs(["study"])["study"].tolist() == cells.obs["study"].tolist()
    assert store.obs(["depth"])["depth"].dtype == np.float32
    assert store.cell_ids().tolist() == cells.obs_names.tolist()
    assert_reads_as(store, cells.X)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_spans_in_any_order_give_their_rows(cells, tmp_path_factory, data):
    layout = data.draw(st.sampled_from(DIRECT))
    path = tmp_path_factory.getbasetemp() / f"spans {layout}.h5ad"
    if not path.exists():
        cells.write_h5ad(path)
        lay_out(path, LAYOUTS[layout])
    edge = st.integers(0, cells.n_obs)
    spans = data.draw(st.lists(st.tuples(edge, edge).map(sorted), max_size=12))
    store = H5adStore(path)
    block = store.read(np.array(spans, np.int64).reshape(-1, 2))
    store.close()
    rows = [row for a, b in spans for row in range(a, b)]
    np.testing.assert_array_equal(block.csr().toarray(), cells.X[rows].toarray())


@pytest.mark.parametrize("layout", ["gzip shuffle", "none", "lzf"])
def test_threads_that_read_at_once_get_their_own_rows(cells, plain, layout):
    store = H5adStore(lay_out(plain, LAYOUTS[layout]))

    def read(seed):
        for turn in range(20):
            assert_reads_as(store, cells.X, seed=1000 * seed + turn)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


# --- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.99])
def test_a_truncated_file_is_refused(plain, keep):
    os.truncate(plain, int(plain.stat().st_size * keep))
    with pytest.raises(DataError, match="not a readable .h5ad file") as error:
        H5adStore(plain)
    assert str(plain) in str(error.value)


def test_a_file_cut_after_opening_is_an_error(plain):
    store = H5adStore(plain)
    os.truncate(plain, plain.stat().st_size // 2)
    with pytest.raises(DataError, match="replaced or written to"):
        store.read(np.array([[0, 300]]))


def test_a_flipped_byte_in_a_compressed_chunk_is_found_and_named(plain):
    lay_out(plain, LAYOUTS["small chunks"])
    with h5py.File(plain) as file:
        info = file["X/data"].id.get_chunk_info(5)
    stored = bytearray(plain.read_bytes())
    stored[info.byte_offset + info.size // 2] ^= 16
    plain.write_bytes(stored)
    with pytest.raises(DataError, match="chunk 5 of X/data is damaged: gzip"):
        H5adStore(plain).read(np.array([[0, 300]]))


def test_a_chunk_that_was_never_written_is_an_error(plain):
    with h5py.File(plain, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        made = file["X"].create_dataset("data", shape=values.shape, dtype="f4", chunks=(100,), maxshape=(None,))
        made[:500] = values[:500]
    with pytest.raises(DataError, match="chunk 5 of X/data was never written"):
        H5adStore(plain)
    with pytest.raises(DataError, match="was never written"):
        H5adStore(Remote(plain)).read(np.array([[0, 300]]))


def test_a_file_replaced_while_it_is_read_is_an_error(plain):
    store = H5adStore(plain)
    known = store.fingerprint
    shutil.copy(plain, plain.with_suffix(".new"))
    plain.with_suffix(".new").replace(plain)
    for read in (lambda: store.read(np.array([[0, 5]])), lambda: store.obs(["study"]), store.cell_ids):
        with pytest.raises(DataError, match="replaced"):
            read()
    assert H5adStore(plain).fingerprint == known, "a copy holds the same cells"


def test_something_else_is_refused(tmp_path):
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = np.zeros(3)
    for name, match in (("text", "not a readable"), ("other", "HDF5 file of matrix"), ("absent", "no such file")):
        with pytest.raises(DataError, match=match):
            H5adStore(tmp_path / f"{name}.h5ad")


def test_a_damaged_dense_matrix_is_an_error(cells, tmp_path):
    dense = cells.copy()
    dense.X = cells.X.toarray()
    path = tmp_path / "cells.h5ad"
    dense.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        info = file["X"].id.get_chunk_info(0)
    stored = bytearray(path.read_bytes())
    stored[info.byte_offset + 20 : info.byte_offset + 60] = bytes(40)
    path.write_bytes(stored)
    with pytest.raises(DataError, match=r"cells 0 to \d+ cannot be read") as error:
        H5adStore(path)
    assert str(path) in str(error.value)
