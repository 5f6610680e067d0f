"""Columns to tokens: names, duplicates, odd matrices; truth is a dense loop in plain Python."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.tokenizers.gene_columns import GenePanels, expressed_genes, match_genes, to_tokens

TOKENS = {"A": 3, "B": 4, "C": 7, "ENSG00000000003": 9}
ALIASES = {"ENSG00000000001": "A", "old-B": "B"}


def plain(dense: np.ndarray, tokens: np.ndarray, *, summed: bool) -> list[list[tuple[int, float]]]:
    """(token, count) of each cell: equal tokens summed, ascending; or each column by itself, in column order."""
    cells = []
    for row in dense:
        found: list[tuple[int, float]] = []
        place: dict[int, int] = {}
        for token, x in zip(tokens.tolist(), row.tolist(), strict=True):
            if token < 0 or x == 0:
                continue
            if summed and token in place:
                found[place[token]] = (token, found[place[token]][1] + x)
            else:
                place[token] = len(found)
                found.append((token, x))
        cells.append(sorted(found) if summed else found)
    return cells


def as_cells(found) -> list[list[tuple[int, float]]]:
    return [
        list(zip(found.ids[a:b].tolist(), found.counts[a:b].tolist(), strict=True))
        for a, b in zip(found.indptr[:-1], found.indptr[1:], strict=True)
    ]


def test_a_name_is_found_as_it_is_by_alias_and_an_ensembl_id_also_without_version_and_in_any_case():
    genes = ["B", "old-B", "ENSG00000000001.4", "ensg00000000003.15", "b", "C ", "X"]
    found = match_genes(genes, TOKENS, ALIASES, match_official=False)
    assert found.token_G.tolist() == [4, 4, 3, 9, -1, 7, -1]
    assert found.first_G.tolist() == [0, 0, 2, 3, -1, 5, -1]
    assert found.places.place_G.tolist() == [1, 1, 0, 3, 4, 2, 4] and not found.places.direct
    assert found.places.token_P.tolist() == [3, 4, 7, 9]


def test_match_official_takes_names_as_they_are_and_sums_nothing():
    genes = ["B", "old-B", "ENSG00000000001.4", "ENSG00000000001", "C "]
    found = match_genes(genes, TOKENS, ALIASES, match_official=True)
    assert found.token_G.tolist() == [4, 4, -1, 3, -1]
    assert found.first_G.tolist() == [0, 1, -1, 3, -1]
    assert found.places.token_P.tolist() == [4, 4, 3] and found.places.direct


def test_no_known_gene_is_an_error_that_names_examples():
    with pytest.raises(ValueError, match=r"found: none of 2 gene names .*'x'[\s\S]*wanted: names such as 'A'"):
        match_genes(["x", "y"], TOKENS, ALIASES, match_official=False)


@settings(max_examples=60)
@given(
    st.data(),
    st.sampled_from([np.float32, np.float64, np.int64, np.uint16, np.bool_]),
    st.sampled_from(["csr", "int64 columns", "shuffled"]),
    st.booleans(),
)
def test_tokens_equal_a_plain_loop(data, kind, form, match_official):
    genes = data.draw(st.lists(st.sampled_from(["A", "B", "old-B", "C", "X", "ENSG00000000001"]), min_size=1))
    if not set(genes) - {"X"}:
        genes.append("A")
    n_cells = data.draw(st.integers(0, 5))
    rows = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=len(genes), max_size=len(genes)),
                              min_size=n_cells, max_size=n_cells))  # fmt: skip
    dense = np.array(rows, kind).reshape(n_cells, len(genes))
    matrix = sp.csr_matrix(dense)
    if form == "int64 columns":
        matrix.indices = matrix.indices.astype(np.int64)
    if form == "shuffled":
        for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
            matrix.indices[a:b], matrix.data[a:b] = matrix.indices[a:b][::-1].copy(), matrix.data[a:b][::-1].copy()
        matrix.has_sorted_indices = False
    meaning = match_genes(genes, TOKENS, ALIASES, match_official=match_official)
    found = to_tokens(matrix, meaning.places)
    assert as_cells(found) == plain(dense.astype(float), meaning.token_G, summed=not match_official)
    assert found.ids.dtype == np.int32
    assert found.indptr.dtype == np.int64


def test_stored_zeros_are_dropped_and_a_column_given_twice_is_summed():
    matrix = sp.csr_matrix((np.array([0, 2, 3, 1.0]), np.array([0, 1, 1, 2]), np.array([0, 4])), shape=(1, 3))
    assert as_cells(to_tokens(matrix, match_genes(["A", "B", "C"], TOKENS, {}, match_official=False).places)) == [
        [(4, 5), (7, 1)]
    ]
    assert matrix.data.tolist() == [0, 2, 3, 1], "the matrix of the caller stays as it is"


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("columns", [[0, 1], [1, 0], [1, 1]])
def test_a_bad_count_is_an_error_wherever_it_stands(value, columns):
    matrix = sp.csr_matrix((np.array([value, 5]), np.array(columns), np.array([0, 0, 2])), shape=(2, 2))
    with pytest.raises(ValueError, match=r"a count of .*[\s\S]*row 1"):
        to_tokens(matrix, match_genes(["A", "B"], TOKENS, {}, match_official=False).places)


def test_a_column_outside_the_matrix_is_an_error():
    matrix = sp.csr_matrix(np.ones((1, 2)))
    matrix.indices = np.array([0, 9], np.int32)
    with pytest.raises(ValueError, match="a column outside the matrix"):
        to_tokens(matrix, match_genes(["A", "B"], TOKENS, {}, match_official=False).places)


def test_a_panel_is_matched_once_and_survives_copying():
    panels = GenePanels(TOKENS, ALIASES, match_official=False)
    genes = ("A", "X")
    found = panels(genes)
    assert panels(genes) is found
    assert panels(["A", "X"]) is found
    assert panels(np.array(["X", "A"])).token_G.tolist() == [-1, 3]
    again = copy.deepcopy(panels)
    assert again(("A", "X")).token_G.tolist() == [3, -1]
    for n in range(200):
        panels(("A", f"X{n}"))
    assert panels(genes).token_G.tolist() == [3, -1]


def test_expressed_genes_are_sorted_counted_once_a_cell_and_joined_over_versions():
    matrix = sp.csr_matrix(np.array([[1, 0, 2, 1, 1], [0, 3, 0, 1, 0], [0, 0, 0, 0, 1]]))
    genes = ["ENSG02.1", "ensg02.7", "ENSG02", "b", "B"]
    assert expressed_genes(matrix, genes, min_cells=2) == ["B", "ENSG02", "b"]
    assert expressed_genes(matrix, genes, min_cells=1) == ["B", "ENSG02", "b"]
    with pytest.raises(ValueError, match="no gene is expressed in 3 of 3 cells"):
        expressed_genes(matrix, genes, min_cells=3)
