"""SOMA: every cell equals pandas and scipy: spans in any order, filters, reads in many tables, threads, S3."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, DataError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.files.retries import Retries
from scmf.data.stores.soma.rows import JoinIds, LengthMismatch, RowGather

soma = pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed")

from scmf.data.stores.soma.store import SomaStore  # noqa: E402
from tests.fixtures.mini_census import N_CELLS, N_GENES, add_layer, build  # noqa: E402

BLOOD = "tissue_general == 'blood' and is_primary_data == True and cell_type in ['B cell', 'T cell']"
SMALL = {"soma.init_buffer_bytes": 4096}  # 512 values of 8 bytes: a read comes in many tables


def blood(obs):
    return (obs["tissue_general"] == "blood") & obs["is_primary_data"] & obs["cell_type"].isin(["B cell", "T cell"])


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    return build(tmp_path_factory.mktemp("census") / "soma")


@pytest.fixture(scope="module")
def store(census):
    store = SomaStore.open(census.human, value_filter=BLOOD, tiledb_config=SMALL)
    yield store
    store.close()


def check(store, spans, truth):
    """A read equals the rows of a scipy matrix, with columns that rise."""
    block = store.read(np.array(spans))
    rows = np.concatenate([np.arange(a, b) for a, b in spans]) if len(spans) else np.empty(0, int)
    wanted = truth[rows]
    wanted.sort_indices()
    np.testing.assert_array_equal(block.indptr, wanted.indptr)
    np.testing.assert_array_equal(block.indices, wanted.indices)
    np.testing.assert_array_equal(block.data, wanted.data)
    assert block.indptr.dtype == np.int64 and block.data.dtype == np.float32
    assert block.n_genes == truth.shape[1]


def test_all_cells_and_genes_without_a_filter(census):
    store = SomaStore.open(census.human)
    assert store.n_cells == N_CELLS and len(store.genes) == N_GENES
    assert store.genes == tuple(census.var["feature_id"]) and store.counts == "RNA/X/raw"
    check(store, [(0, N_CELLS)], census.counts)
    np.testing.assert_array_equal(store.lengths, np.diff(census.counts.indptr))
    assert store.lengths.dtype == np.uint16 and store.lengths_from == "nnz"
    pd.testing.assert_frame_equal(
        store.var[["feature_name", "feature_length"]].reset_index(drop=True),
        census.var[["feature_name", "feature_length"]],
    )
    assert list(store.var.index) == list(store.genes)
    store.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 60)), max_size=12))
def test_spans_in_any_order_overlapping_or_empty(census, store, pairs):
    n = store.n_cells
    check(store, [(min(a, n), min(a + k, n)) for a, k in pairs], census.counts[blood(census.obs).to_numpy()])


def test_a_filter_gives_the_cells_that_pandas_gives(census, store):
    chosen = census.obs[blood(census.obs)]
    assert store.n_cells == len(chosen)
    np.testing.assert_array_equal(store.cell_ids(), chosen.index.astype(str))
    columns = ["donor_id", "raw_sum", "is_primary_data", "observation_joinid", "soma_joinid"]
    table = store.obs(columns)
    assert isinstance(table.index, pd.RangeIndex) and list(table) == columns
    for column in ("donor_id", "observation_joinid"):
        assert isinstance(table[column].dtype, pd.CategoricalDtype)
        assert table[column].tolist() == chosen[column].tolist()
    np.testing.assert_array_equal(table["raw_sum"], chosen["raw_sum"])
    np.testing.assert_array_equal(table["soma_joinid"], chosen.index)
    assert table["is_primary_data"].dtype == bool and table["is_primary_data"].all()
    assert set(store.obs(["cell_type"])["cell_type"].cat.categories) == {"B cell", "T cell"}
    assert set(columns) < set(store.obs_columns)


def test_cells_can_be_named_by_another_column(census):
    store = SomaStore.open(census.human, value_filter=BLOOD, cell_ids="observation_joinid")
    assert store.cell_ids().tolist() == census.obs["observation_joinid"][blood(census.obs)].tolist()


def test_a_gene_filter_keeps_columns_of_these_genes(census):
    store = SomaStore.open(census.human, gene_filter="feature_type == 'protein_coding'", tiledb_config=SMALL)
    kept = (census.var["feature_type"] == "protein_coding").to_numpy()
    assert store.genes == tuple(census.var["feature_id"][kept])
    truth = census.counts[:, kept]
    check(store, [(1000, 1100), (0, 300)], truth)
    assert store.lengths_from == "scan"
    np.testing.assert_array_equal(store.lengths, np.diff(truth.indptr))


def test_a_scan_gives_the_lengths_that_the_column_gives(census, store):
    scanned = SomaStore.open(census.human, value_filter=BLOOD, nnz_column=None)
    assert scanned.lengths_from == "scan"
    np.testing.assert_array_equal(scanned.lengths, store.lengths)
    assert scanned.fingerprint == store.fingerprint


def test_a_column_of_lengths_that_lies_is_found(census, tmp_path):
    def spoil(counts):
        counts = counts.copy()
        counts.data[counts.indptr[5]] = 0
        counts.eliminate_zeros()
        return counts

    other = build(tmp_path / "soma", spoil=spoil)
    store = SomaStore.open(other.human)
    check(store, [(6, 40), (0, 5)], census.counts)
    with pytest.raises(DataError, match="cell 5 has") as caught:
        store.read(np.array([[0, 40]]))
    assert "nnz_column=None" in caught.value.fix
    check(SomaStore.open(other.human, nnz_column=None), [(0, N_CELLS)], other.counts)


def test_another_layer_of_another_type(census, tmp_path):
    other = build(tmp_path / "soma")
    doubled = sp.csr_matrix(other.counts * 2, dtype=np.int32)
    add_layer(other, "doubled", doubled)
    store = SomaStore.open(other.human, layer="doubled")
    assert store.lengths_from == "scan"
    check(store, [(700, 900), (0, 20)], doubled.astype(np.float32))


def test_a_block_comes_in_many_tables_and_nothing_is_lost(census, store):
    matrix = store._matrix.read((slice(None), slice(None))).tables()
    assert sum(1 for _ in matrix) > 50
    check(store, [(0, store.n_cells)], census.counts[blood(census.obs).to_numpy()])


def test_threads_share_a_store(census, store):
    truth = census.counts[blood(census.obs).to_numpy()]
    rng = np.random.default_rng(0)
    jobs = [[(int(a), int(a) + 16) for a in rng.integers(0, store.n_cells - 16, 5)] for _ in range(24)]
    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(check, store, job, truth) for job in jobs]:
            result.result()


def test_a_corpus_scans_a_query_in_order_with_bounded_reads(census, store):
    seen, largest = [], 0
    for block in Corpus([store]).scan(cells_per_block=64):
        seen.append(block.counts.csr())
        largest = max(largest, block.counts.n_cells)
    assert largest == 64
    assert (sp.vstack(seen) != census.counts[blood(census.obs).to_numpy()]).nnz == 0


def test_a_read_asks_for_the_rows_of_its_cells_alone(census, monkeypatch):
    store = SomaStore.open(census.human, value_filter=BLOOD)
    asked = []
    matrix = store._matrix
    monkeypatch.setattr(
        store, "_matrix", SimpleNamespace(read=lambda coords: (asked.append(coords[0]), matrix.read(coords))[1])
    )
    check(store, [(30, 40), (3, 8)], census.counts[blood(census.obs).to_numpy()])
    ids = np.flatnonzero(blood(census.obs))
    assert len(asked) == 1 and asked[0].tolist() == [*ids[3:8], *ids[30:40]]


def test_an_open_experiment_stays_open(census):
    with soma.open(census.human) as experiment:
        store = SomaStore.open(experiment, value_filter="dataset_id == 'd2'")
        assert store.n_cells == 400 and store.cell_ids()[0] == "400"
        store.close()
        assert not experiment.closed


def test_the_fingerprint_tells_queries_apart(census, store):
    again = SomaStore.open(census.human, value_filter=BLOOD)
    assert again.fingerprint == store.fingerprint
    others = [
        SomaStore.open(census.human),
        SomaStore.open(census.human, value_filter=BLOOD, gene_filter="feature_length > 500"),
        SomaStore.open(census.human, value_filter=BLOOD, version="2026-01-01"),
    ]
    assert len({one.fingerprint for one in [store, *others]}) == 4


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "found", "hint"),
    [
        ({"value_filter": "tissue == 'blood'"}, DataError, "asks for a column 'tissue'", "tissue_general"),
        ({"value_filter": "attr('cel_type') == 'B cell'"}, DataError, "column 'cel_type'", "cell_type"),
        ({"value_filter": "cell_type = 'B cell'"}, ConfigError, "cannot be read", "== for equal"),
        ({"value_filter": "cell_type == 3"}, ConfigError, "another type", "text columns with texts"),
        ({"value_filter": "nnz > 'many'"}, ConfigError, "cannot run", "numbers with numbers"),
        ({"value_filter": "cell_type == 'B cells'"}, DataError, "no cells with the filter", "did you mean 'B cell'"),
        ({"value_filter": "nnz > 9999"}, DataError, "no cells with the filter", "less in the filter"),
        ({"gene_filter": "feature_type == 'protein'"}, DataError, "no genes", "did you mean 'protein_coding'"),
        ({"gene_filter": "kind == 'x'"}, DataError, "column 'kind'", "known"),
        ({"measurement": "rna"}, DataError, "no measurement 'rna'", "RNA"),
        ({"layer": "row"}, DataError, "no layer 'row'", "raw"),
        ({"gene_ids": "feature"}, DataError, "no column 'feature' in var", "feature_"),
        ({"storage_options": {"keys": 1}}, ConfigError, "storage option 'keys'", "did you mean 'key'"),
    ],
)
def test_errors_say_what_to_do(census, options, kind, found, hint):
    with pytest.raises(kind) as caught:
        SomaStore.open(census.human, **options)
    assert found in caught.value.found and hint in caught.value.fix and census.human in str(caught.value.where)


def test_no_experiment(census, tmp_path):
    with pytest.raises(DataError, match="no SOMA experiment"):
        SomaStore.open(str(tmp_path / "none"))
    with pytest.raises(DataError, match="a SOMA Collection"):
        SomaStore.open(census.uri)


def test_an_unknown_column_of_obs(store):
    with pytest.raises(DataError, match="no column 'donor' in obs") as caught:
        store.obs(["donor"])
    assert "donor_id" in caught.value.fix


def test_another_process_gets_an_error_and_no_hang(census, monkeypatch):
    store = SomaStore.open(census.human)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(DataError, match="forked process"):
        store.read(np.array([[0, 4]]))


# --- the network ----------------------------------------------------------------------------------


def test_the_same_from_s3(census, s3, monkeypatch):
    from pathlib import Path

    s3.put_folder(Path(census.human), "census/homo_sapiens")
    truth = census.counts[blood(census.obs).to_numpy()]
    uri = f"{s3.url}/census/homo_sapiens"
    store = SomaStore.open(uri, value_filter=BLOOD, storage_options=s3.options)
    check(store, [(60, 80), (0, 10)], truth)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda at: check(store, [(at, at + 30)], truth), range(0, 150, 30)))
    assert store.retries == 0
    store.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    check(SomaStore.open(uri, value_filter=BLOOD), [(0, 3)], truth)
    with pytest.raises(DataError, match="no SOMA experiment"):
        SomaStore.open(f"{s3.url}/census/none")


def test_a_read_that_fails_on_the_network_is_tried_again_from_the_start(census, monkeypatch):
    store = SomaStore.open(census.human, retries=Retries(3, first_wait_s=0.001), tiledb_config=SMALL)
    matrix, left = store._matrix, [2]

    class Dropping:
        """Gives some tables and then loses the connection, as the S3 client of TileDB reports it."""

        def read(self, coords):
            return SimpleNamespace(tables=lambda: self.tables(coords))

        def tables(self, coords):
            for i, table in enumerate(matrix.read(coords).tables()):
                if i == 1 and left[0]:
                    left[0] -= 1
                    raise soma.SOMAError("S3 error: curlCode: 56, Failure when receiving data from the peer")
                yield table

    monkeypatch.setattr(store, "_matrix", Dropping())
    check(store, [(100, 200), (0, 50)], census.counts)
    assert store.retries == 2
    left[0] = 100
    with pytest.raises(DataError, match="failed after 3 tries: S3 error"):
        store.read(np.array([[0, 200]]))


# --- the parts ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 400), min_size=1, unique=True), st.integers(0, 2**40), st.data())
def test_ids_come_back_from_their_compact_form(ids, base, data):
    ids = np.sort(np.array(ids, np.int64)) + base
    compact = JoinIds(ids)
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    np.testing.assert_array_equal(compact.span(start, stop), ids[start:stop])
    assert len(compact) == len(ids) and compact.span(start, stop).dtype == np.int64


def test_ids_cost_four_bytes_a_cell_or_less():
    every = np.arange(1_000_000, dtype=np.int64)
    assert JoinIds(every).nbytes == 16
    assert JoinIds(every[::2]).nbytes == 4 * 500_000


@given(st.integers(0, 2**32 - 1))
def test_triplets_in_any_order_become_rows_with_rising_columns(seed):
    rng = np.random.default_rng(seed)
    truth = sp.random(30, 20, 0.3, format="csr", random_state=rng, dtype=np.float32)
    triplets = truth.tocoo()
    order = rng.permutation(triplets.nnz)
    ids = rng.choice(30, 45) if seed % 2 else rng.permutation(30)
    used = np.isin(triplets.row[order], ids)
    lengths = np.diff(truth.indptr)[ids] if seed % 3 else None
    gather = RowGather(ids.astype(np.int64) * 3, np.arange(20, dtype=np.int32), 20, lengths=lengths)
    for part in np.array_split(order[used], 4):
        gather.add(triplets.row[part].astype(np.int64) * 3, triplets.col[part].astype(np.int64), triplets.data[part])
    block = gather.block()
    truth.sort_indices()
    np.testing.assert_array_equal(block.csr().toarray(), truth[ids].toarray())
    assert all(np.all(np.diff(block.indices[a:b]) > 0) for a, b in zip(block.indptr, block.indptr[1:], strict=False))


@pytest.mark.parametrize("stated", [[1, 1], [3, 1], [2, 2]])
def test_a_length_that_does_not_hold_names_the_cell(stated):
    gather = RowGather(np.array([9, 4]), np.arange(5, dtype=np.int32), 5, lengths=np.array(stated))
    with pytest.raises(LengthMismatch) as caught:
        gather.add(np.array([9, 4, 9]), np.array([0, 3, 1]), np.ones(3))
        gather.block()
    assert caught.value.cell == (4 if stated == [2, 2] else 9)


def test_a_triplet_of_another_cell_is_refused():
    gather = RowGather(np.array([4, 2]), np.zeros(1, np.int32), 1)
    with pytest.raises(ValueError, match="not asked for"):
        gather.add(np.array([3]), np.array([0]), np.ones(1))
