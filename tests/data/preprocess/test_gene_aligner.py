"""One aligner for stores with different genes: which genes, which column, the right counts."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import DataError, GeneError
from scmf.data.genes import species as species_
from scmf.data.genes.gene_sets import GeneSet
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.names import KINDS
from scmf.data.genes.orthologs import OrthologMap
from scmf.data.genes.species import species_of
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.store import CountBlock

TP53, TSPAN6, APP, ACTB = "ENSG00000141510", "ENSG00000000003", "ENSG00000142192", "ENSG00000075624"
TRP53, MAPP = "ENSMUSG00000059552", "ENSMUSG00000022892"
HUMAN = GeneMap(
    [TP53, TSPAN6, APP, ACTB], {"TP53": TP53, "TSPAN6": TSPAN6, "ACTB": ACTB}, {"P53": TP53}, ambiguous=["AMB"]
)
MOUSE = OrthologMap(
    pd.DataFrame(
        [(TP53, TRP53, "ortholog_one2one", 1), (APP, MAPP, "ortholog_one2one", 1)],
        columns=["human", "mouse", "type", "confidence"],
    ),
    GeneMap([TRP53, MAPP, "ENSMUSG00000000009"], {"TRP53": TRP53, "APP": MAPP, "ACTB": "ENSMUSG00000000009"}),
)


@pytest.fixture(autouse=True)
def symbols(monkeypatch):
    """What the annotations of the two species know."""
    human, mouse = {"TP53", "TSPAN6", "APP", "ACTB", "C3"}, {"Trp53", "Tspan6", "App", "Actb", "C3"}
    known = {"Homo sapiens": frozenset(human), "Mus musculus": frozenset(mouse)}
    monkeypatch.setattr(species_, "_symbols", lambda: known)


def ensembl(number):
    return f"ENSG{number:011d}"


def cells(genes, n_cells=40, *, seed=0):
    rng = np.random.default_rng(seed)
    x = sp.csr_matrix(rng.poisson(0.7, (n_cells, len(genes))).astype(np.float32))
    return ad.AnnData(x, obs=pd.DataFrame(index=[f"{seed}-{i}" for i in range(n_cells)]), var=pd.DataFrame(index=genes))


def block_of(matrix):
    x = sp.csr_matrix(matrix, dtype=np.float32)
    return CountBlock(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data, x.shape[1])


def aligned(aligner, adata, **options):
    store = MemoryStore(adata)
    block = store.read(np.array([[0, store.n_cells]]))
    return aligner.align(block, aligner.columns(store.genes), **options)


# --- which genes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three():
    rng = np.random.default_rng(3)
    return [cells([ensembl(i) for i in rng.permutation(90)[:60]], seed=seed) for seed in range(3)]


@pytest.mark.parametrize(("make", "join"), [(GeneAligner.union, "outer"), (GeneAligner.intersection, "inner")])
@pytest.mark.parametrize("in_place", [False, True])
def test_union_and_intersection_are_those_of_anndata_concat(three, make, join, in_place):
    aligner = make([MemoryStore(adata) for adata in three])
    truth = ad.concat(three, join=join)
    assert aligner.genes == tuple(truth.var_names)
    found = sp.vstack([aligned(aligner, adata, in_place=in_place).counts.csr() for adata in three])
    np.testing.assert_array_equal(found.toarray(), truth.X.toarray())


def test_totals_are_over_all_genes_of_the_store_and_not_those_of_the_panel(three):
    aligner = GeneAligner.intersection(three_genes := [tuple(adata.var_names) for adata in three])
    assert len(aligner) < len(three_genes[0])
    found = aligned(aligner, three[0])
    np.testing.assert_array_equal(found.n_counts_B, np.asarray(three[0].X.sum(axis=1)).ravel())
    kept = three[0][:, list(aligner.genes)].X.sum()
    assert found.share_kept == pytest.approx(kept / three[0].X.sum())


def test_versions_and_case_do_not_make_another_gene():
    aligner = GeneAligner.union([[TP53, f"{TSPAN6}.15"], [f"{TP53}.18", TSPAN6.lower(), APP]])
    assert aligner.genes == (TSPAN6, TP53, APP)
    assert aligner.columns([f"{TP53}.2", TSPAN6]).target.tolist() == [1, 0]


def test_names_meet_through_the_map_and_ambiguous_ones_are_left_out():
    stores = [["TP53", "AMB", "TSPAN6", "NEW-GENE"], [TP53, "TSPAN6", "NEW-GENE"], ["P53", "ACTB", "TSPAN6"]]
    assert GeneAligner.union(stores, mapping=HUMAN).genes == (TSPAN6, ACTB, TP53, "NEW-GENE")
    assert GeneAligner.intersection(stores, mapping=HUMAN).genes == (TP53, TSPAN6)
    columns = GeneAligner.union(stores, mapping=HUMAN).columns(stores[0])
    assert columns.target.tolist() == [2, -1, 0, 3]
    assert columns.counts["ambiguous"] == 1


def test_the_order_of_the_stores_does_not_change_a_union_and_one_common_order_is_kept():
    stores = [[TP53, APP], [TSPAN6, TP53]]
    assert GeneAligner.union(stores).genes == GeneAligner.union(stores[::-1]).genes == (TSPAN6, TP53, APP)
    assert GeneAligner.union([[TP53, TSPAN6], [f"{TP53}.1", TSPAN6]]).genes == (TP53, TSPAN6)


def test_without_a_shared_gene_there_is_no_intersection():
    with pytest.raises(GeneError, match="no genes"):
        GeneAligner.intersection([[TP53], [TSPAN6]])


# --- which column ---------------------------------------------------------------------------------


def test_every_gene_of_a_store_is_accounted_for():
    aligner = GeneAligner.of([TP53, APP], mapping=HUMAN)
    columns = aligner.columns([TP53, f"{APP}.7", "P53", ACTB, "AMB", "nobody"])
    assert [KINDS[kind] for kind in columns.kinds] == [
        "exact", "normalized", "alias", "outside", "ambiguous", "unknown",
    ]  # fmt: skip
    assert sum(columns.counts.values()) == 6
    assert (columns.n_dropped, columns.n_found) == (3, 2)
    assert columns.collisions == {TP53: (TP53, "P53")}


def test_a_vocabulary_of_symbols_finds_ensembl_ids_and_keeps_its_own_spelling():
    aligner = GeneAligner.of(["TP53", "C1orf112"], mapping=HUMAN, species="Homo sapiens")
    assert aligner.genes == ("TP53", "C1orf112")
    assert aligner.columns([TP53, "C1ORF112"]).target.tolist() == [0, 1]


def test_two_names_of_one_gene_in_a_vocabulary_are_told_and_each_is_found_as_written():
    aligner = GeneAligner.of(["P53", "TP53", "ACTB"], mapping=HUMAN)
    assert aligner.collisions == {"P53": ("TP53",)}
    assert aligner.columns(["TP53", "P53", TP53]).target.tolist() == [1, 0, 0]


def test_a_gene_set_brings_its_species_and_its_other_names(monkeypatch):
    genes = GeneSet("mine", (TP53, TSPAN6), "Homo sapiens", "test")
    monkeypatch.setattr(GeneSet, "gene_map", lambda self: HUMAN)
    assert GeneAligner.of(genes).columns(["TSPAN6", "P53", "p53"]).target.tolist() == [1, 0, -1]


def test_a_vocabulary_that_names_a_gene_twice_is_refused():
    with pytest.raises(GeneError, match="stands twice"):
        GeneAligner.of([TP53, TP53])


# --- species --------------------------------------------------------------------------------------


@pytest.mark.parametrize("genes", [[TRP53, MAPP], ["Trp53", "App"]], ids=["ids", "symbols"])
def test_mouse_genes_in_a_human_vocabulary_are_one_error_that_names_the_orthologs(genes):
    with pytest.raises(GeneError, match=r"(?s)Mus musculus.*Homo sapiens.*liver\.h5ad.*load_orthologs"):
        GeneAligner.of([TP53, TSPAN6], mapping=HUMAN).columns(genes, where="liver.h5ad")


@pytest.mark.parametrize("genes", [[TRP53, MAPP, "ENSMUSG00000000009"], ["Trp53", "App", "Actb"]])
def test_orthologs_take_mouse_genes_to_the_human_panel(genes):
    aligner = GeneAligner.of([APP, TP53, ACTB], mapping=HUMAN, orthologs=MOUSE)
    columns = aligner.columns(genes)
    assert columns.target.tolist() == [1, 0, -1], "Actb is not taken for ACTB by its spelling"
    assert (columns.counts["ortholog"], columns.counts["no_ortholog"]) == (2, 1)


@pytest.mark.parametrize(
    ("genes", "species"),
    [
        (["Trp53", "App", TRP53], "Mus musculus"),  # genes without a symbol are written as ids
        ([f"{TP53}.2", "ACTB"], "Homo sapiens"),
        ([TP53, TRP53, MAPP], "Mus musculus"),  # what most ids say
        ([TRP53, "ACTB", "TSPAN6"], ""),
        (["FBgn0000001"], ""),
        (["FOO1", "gene_1", "GENE2"], ""),  # capitals are no species
        (["tspan6", "actb", "app"], ""),
        (["C3"], ""),
        ([], ""),
    ],
)
def test_ids_and_symbols_are_asked_apart_for_their_species(genes, species):
    assert species_of(genes) == species


def test_mouse_symbols_beside_mouse_ids_are_not_compared_with_human_symbols():
    genes = ["Trp53", "App", "Actb", "ENSMUSG00000000077", "ENSMUSG00000000078"]
    aligner = GeneAligner.of([APP, TP53, ACTB], mapping=HUMAN, orthologs=MOUSE)
    assert aligner.columns(genes).target.tolist() == [1, 0, -1, -1, -1]
    with pytest.raises(GeneError, match="Mus musculus"):
        GeneAligner.of([APP, TP53, ACTB], mapping=HUMAN).columns(genes)


def test_a_human_and_a_mouse_store_share_a_panel_through_orthologs():
    stores = [[TP53, TSPAN6], [TRP53, MAPP]]
    with pytest.raises(GeneError, match="load_orthologs"):
        GeneAligner.union(stores)
    assert GeneAligner.union(stores, orthologs=MOUSE).genes == (TSPAN6, TP53, APP)
    assert GeneAligner.intersection(stores, orthologs=MOUSE).genes == (TP53,)


def test_ids_of_the_other_species_are_not_added_to_the_genes_of_a_cell():
    aligner = GeneAligner.of([TP53, APP, TSPAN6], orthologs=MOUSE)
    assert aligner.columns([TP53, APP, TSPAN6, TRP53]).target.tolist() == [0, 1, 2, -1]
    assert aligner.columns([TRP53, MAPP, APP]).target.tolist() == [0, 1, -1], "nor a human transgene to the mouse gene"


def test_a_mouse_panel_does_not_take_human_genes():
    with pytest.raises(GeneError, match="mouse to human only"):
        GeneAligner.of([TRP53, MAPP], orthologs=MOUSE).columns([TP53, APP])


# --- counts ---------------------------------------------------------------------------------------


def test_columns_of_one_gene_are_added_up():
    aligner = GeneAligner.of([TSPAN6, TP53], mapping=HUMAN)
    columns = aligner.columns(["P53", TSPAN6, f"{TP53}.3"])
    found = aligner.align(block_of([[1, 0, 2], [0, 5, 0], [0, 0, 0], [3, 4, 0]]), columns)
    assert found.counts.csr().toarray().tolist() == [[0, 3], [5, 0], [0, 0], [4, 3]]
    assert found.n_counts_B.tolist() == [3, 5, 0, 7]


counts_blocks = st.tuples(st.integers(0, 12), st.integers(1, 150), st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(
    counts_blocks, st.integers(1, 200), st.booleans(), st.booleans(), st.sampled_from([np.int32, np.int64, np.uint16])
)
def test_any_mapping_equals_a_matrix_product(shape, n_panel, rising, in_place, dtype):
    n_cells, n_genes, seed = shape
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.5, (n_cells, n_genes)).astype(np.float32)
    target = rng.integers(-1, n_panel, n_genes)
    if rising:
        target = np.full(n_genes, -1)
        n = min(n_genes, n_panel, int(rng.integers(0, n_genes + 1)))
        target[np.sort(rng.permutation(n_genes)[:n])] = np.sort(rng.permutation(n_panel)[:n])
    aligner = GeneAligner.of([ensembl(i) for i in range(n_panel)])
    genes = [ensembl(t) + f".{i}" if t >= 0 else f"none{i}" for i, t in enumerate(target)]
    columns = aligner.columns(genes)
    np.testing.assert_array_equal(columns.target, target)
    block = block_of(x)
    if not rising:  # rows of a file need not be sorted
        rows = np.repeat(np.arange(n_cells), np.diff(block.indptr))
        order = np.lexsort((rng.random(len(rows)), rows))
        block = block._replace(indices=block.indices[order], data=block.data[order])
    found = aligner.align(block._replace(indices=block.indices.astype(dtype)), columns, in_place=in_place)
    move = sp.csr_matrix(
        (np.ones((target >= 0).sum()), (np.flatnonzero(target >= 0), target[target >= 0])), (n_genes, n_panel)
    )
    np.testing.assert_array_equal(found.counts.csr().toarray(), x @ move.toarray())
    np.testing.assert_array_equal(found.n_counts_B, x.sum(axis=1))
    indptr, indices, data, width = found.counts
    checked = sp.csr_matrix((data, indices, indptr), (n_cells, width))
    assert checked.has_canonical_format and checked.nnz == np.count_nonzero(x @ move.toarray())
    assert found.counts.indices.dtype == np.int32 and found.counts.data.dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(counts_blocks)
def test_the_order_of_the_columns_in_the_file_changes_nothing(shape):
    n_cells, n_genes, seed = shape
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.5, (n_cells, n_genes))
    genes = np.array([ensembl(i) for i in range(n_genes)])
    aligner, order = GeneAligner.of(genes), rng.permutation(n_genes)
    straight = aligner.align(block_of(x), aligner.columns(genes))
    other = aligner.align(block_of(x[:, order]), aligner.columns(genes[order]))
    assert straight.share_kept == 1
    np.testing.assert_array_equal(straight.counts.csr().toarray(), other.counts.csr().toarray())
    np.testing.assert_array_equal(straight.n_counts_B, other.n_counts_B)


def test_stored_zeros_are_removed_and_the_block_stays_as_it_was():
    aligner = GeneAligner.of([ensembl(1), ensembl(0)])
    block = CountBlock(np.array([0, 3]), np.array([0, 1, 2], np.int32), np.array([2, 0, 5], np.float32), 3)
    found = aligner.align(block, aligner.columns([ensembl(0), ensembl(1), ensembl(7)]))
    assert (found.counts.indices.tolist(), found.counts.data.tolist()) == ([1], [2])
    assert (block.indices.tolist(), block.data.tolist()) == ([0, 1, 2], [2, 0, 5])
    assert found.n_counts_B.tolist() == [7]


def test_counts_of_a_deep_cell_are_added_in_double_precision():
    aligner = GeneAligner.of([ensembl(0), ensembl(1)])
    block = block_of(np.array([[2**24, 1]]))
    assert aligner.align(block, aligner.columns(aligner.genes)).n_counts_B.tolist() == [2**24 + 1]


@pytest.mark.parametrize("bad", [3, -1])
def test_a_column_that_the_store_does_not_have_is_an_error_and_no_stray_read(bad):
    aligner = GeneAligner.of([ensembl(0), ensembl(1)])
    block = CountBlock(np.array([0, 0, 2]), np.array([0, bad], np.int32), np.ones(2, np.float32), 3)
    with pytest.raises(DataError, match="cell 1 of the block"):
        aligner.align(block, aligner.columns([ensembl(i) for i in range(3)]))


def test_columns_of_another_store_or_panel_are_refused():
    aligner, other = GeneAligner.of([ensembl(0), ensembl(1)]), GeneAligner.of([ensembl(0)])
    with pytest.raises(DataError, match="a block of 3 genes"):
        aligner.align(block_of([[1, 2, 3]]), aligner.columns([ensembl(0)]))
    with pytest.raises(DataError, match="ask columns"):
        aligner.align(block_of([[1]]), other.columns([ensembl(0)]))


def test_equal_genes_are_looked_up_once():
    aligner = GeneAligner.of([ensembl(0), ensembl(1)])
    genes, equal = (ensembl(1),), (ensembl(1),)
    assert genes is not equal
    assert aligner.columns([ensembl(1)]) is aligner.columns(genes) is aligner.columns(genes) is aligner.columns(equal)
    assert aligner.fingerprint != GeneAligner.of([ensembl(1), ensembl(0)]).fingerprint
