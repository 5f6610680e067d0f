"""The order of the columns and of the cells decides nothing: for every strategy, in memory and from files."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmf.core import registry
from scmf.data.stores.h5ad_store import H5adStore
from scmf.data.stores.memory import MemoryStore
from scmf.training.stream_data import TokenEncoder

N_GENES = 70
GENES = [f"ENSG{i:011d}" for i in range(N_GENES)]
TABLE = [GENES[i] for i in np.random.default_rng(5).permutation(N_GENES)[:60]]  # ten columns are unknown
OPTIONS = {
    "rank_value": [{}],
    "binned": [
        {}, {"long_cells": "first"}, {"include_zero_genes": True}, {"n_bins": 0},
        {"n_bins": 0, "include_zero_genes": True, "long_cells": "first"},
    ],
    "continuous": [
        *({"order": order} for order in ("column", "vocabulary", "value", "random")),
        {"order": "value", "transform": "clipped_counts", "target_sum": 50.0, "clip": 3.0},
        {"order": "random", "keep_zeros": True, "transform": "clipped_counts"},
        {"order": "column", "transform": "as_given", "depth_tokens": True, "depth_of": "values"},
        {"order": "value", "unknown_genes": "token", "transform": "clipped_counts"},
        {"order": "column", "depth_tokens": True},
    ],
    "gene_embedding": [{"order": "value", "dimensions": 2}, {"dimensions": 2}],
}  # fmt: skip
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


def made(name, options, max_length, seed=0):
    """A tokenizer whose ids are in another order than the names."""
    strategy = registry.resolve("tokenizers", name)
    more = {"vectors": (TABLE, np.random.default_rng(1).random((len(TABLE), 2)))} if name == "gene_embedding" else {}
    shape = {"max_length": max_length, "special_tokens": False}
    token_ids = strategy.vocabulary_of(TABLE, special_tokens=False, **options)
    medians = dict.fromkeys(TABLE, 1.0) | {TABLE[i]: 2.0 for i in range(9)}  # ties
    return strategy.from_tables(token_ids, medians, **shape, **options, **more)


@st.composite
def cells(draw):
    """Counts with ties, each cell with a count of a known gene; whole numbers, or fractions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    block = rng.integers(1, draw(st.sampled_from([2, 4, 2000])), (draw(st.integers(1, 4)), N_GENES)).astype(np.float64)
    block[rng.random(block.shape) > draw(st.sampled_from([0.1, 0.6, 1.0]))] = 0
    block[:, GENES.index(TABLE[0])] += 1
    return block.astype(draw(st.sampled_from([np.float32, np.float64])))


def same(one, two, rows):
    """Cell ``rows[i]`` of ``one`` is cell i of ``two``, in every tensor."""
    for new, old in enumerate(rows):
        a, b = slice(*one.offsets[old : old + 2]), slice(*two.offsets[new : new + 2])
        for key in one.columns:
            np.testing.assert_array_equal(one.columns[key][a], two.columns[key][b])
        for key in one.cells:
            np.testing.assert_array_equal(one.cells[key][old], two.cells[key][new])


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda x: x if isinstance(x, str) else ",".join(map(str, x)))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_permuted_genes_and_cells_have_equal_tokens(name, options, data):
    block, random = data.draw(cells()), data.draw(st.randoms(use_true_random=False))
    if name in ("rank_value", "binned") or options.get("transform") == "as_given":
        block *= data.draw(st.sampled_from([1, 0.1, 1 / 3]))
    tokenizer = made(name, options, data.draw(st.sampled_from([5, 20, N_GENES + 5])))
    genes = list(GENES)
    if data.draw(st.booleans()):  # two columns of one gene are one gene
        block, genes = np.concatenate([block, block[:, :7]], axis=1), [*genes, *(f"{gene}.2" for gene in genes[:7])]
    rows, columns = list(range(len(block))), list(range(len(genes)))
    random.shuffle(rows)
    random.shuffle(columns)
    draw = data.draw(st.integers(0, 2))
    one = tokenizer.encode_cells(block, genes, draw=draw)
    two = tokenizer.encode_cells(sp.csr_matrix(block[rows][:, columns]), [genes[i] for i in columns], draw=draw)
    same(one, two, rows)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_with_permuted_genes_is_streamed_to_the_tokens_of_memory(name, tmp_path):
    rng = np.random.default_rng(0)
    block = rng.poisson(1, (30, N_GENES)).astype(np.float32) + 1
    rows, columns = rng.permutation(30), rng.permutation(N_GENES)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(30)])
    first = ad.AnnData(sp.csr_matrix(block), obs=obs, var=pd.DataFrame(index=GENES))
    first[rows][:, columns].copy().write_h5ad(tmp_path / "moved.h5ad")
    encoder = TokenEncoder(made(name, OPTIONS[name][0], 40))
    found = []
    for store in (MemoryStore(first), H5adStore(tmp_path / "moved.h5ad")):
        found.append(encoder(store.read(np.array([[0, 30]])), store.genes))
        store.close()
    for new, old in enumerate(rows):
        for key in found[0].columns:
            a, b = (
                one.columns[key][one.offsets[i] : one.offsets[i + 1]] for one, i in zip(found, (old, new), strict=True)
            )
            np.testing.assert_array_equal(a, b)
