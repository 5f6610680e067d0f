"""Edges between genes from what a network does with them in cells: attention, vectors in cells, in-silico knock-out.

Everything goes through public methods of the network, is bounded by a number of cells drawn with a seed, and averaged
over the cells that hold the genes; the bounds stand in ``attrs["how"]`` of the table. Lives here also: which family can
go which way. Lives elsewhere: gene vectors without a cell and the choice of ways (model_edges), the metrics
(metrics).

Array legend: L positions, D width, R regulators, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from scmf.core.errors import ModelError, from_value_error
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import padded_tensors
from scmf.evaluation.gene_network.baselines import edge_table

SEED = 0
ATTENTION_CELLS = CONTEXT_CELLS = 200
KNOCKOUT_REGULATORS, KNOCKOUT_CELLS = 60, 8
"""The regulators that most cells hold, and cells for each of them."""
STILL = 1e-12
"""A vector that moved less (1 - cosine) did not move: that is what rounding of float32 does."""

WAYS = {
    "gene_embedding": None,
    "attention": "gives_attention",
    "knockout": "allows_knockout",
    "context_embedding": "gives_gene_vectors",
}
"""Way -> the attribute of `scmf.models.protocol.Model` that says whether a family can; None where all can."""


def can(network: Any, way: str) -> bool:
    """Whether the family can go this way; one that does not say may try."""
    capability = WAYS[way]
    return capability is None or bool(getattr(network, capability, True))


def _require(network: Any, way: str) -> None:
    """Raise `ModelError` unless the family can go this way."""
    if not can(network, way):
        raise _unable(network, way)


def _unable(network: Any, way: str) -> ModelError:
    others = [name for name in WAYS if name != way and can(network, name)]
    return ModelError(
        f"edges by {way} of {network.config.model_type}",
        wanted=f"a network with {WAYS[way]} = True",
        where="edges of a model",
        fix=f"use {', '.join(others)}",
    )


@torch.no_grad()
def context_embedding(
    network: Any,
    tokens: Ragged,
    ids: dict[str, int],
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    layer: int = 0,
    n_cells: int = CONTEXT_CELLS,
    seed: int = SEED,
) -> pd.DataFrame:
    """|Cosine| of the vectors of two genes in their cells, each averaged over the cells that hold the gene.

    Parameters
    ----------
    layer
        As in ``embed`` of the network: 0 is the last layer, -1 the one before.
    n_cells
        Most cells, drawn with ``seed``.

    Raises
    ------
    ModelError
        The family hands out no vectors of genes, or has no such layer.
    """
    _require(network, "context_embedding")
    rows, columns = known(ids, regulators), known(ids, targets)
    genes = list(dict.fromkeys([*rows, *columns]))
    place_of = _places(ids, genes)
    total: np.ndarray | None = None
    seen = np.zeros(len(genes))
    chosen = _drawn(len(tokens), n_cells, seed)
    for cell in chosen:
        one = tokens.select(np.array([cell]))
        states = _states(network, one, layer=layer)
        total = np.zeros((len(genes), states.shape[1])) if total is None else total
        at, where = _positions(one.columns["input_ids"], place_of)
        np.add.at(total, at, states[where])
        np.add.at(seen, at, 1)
    if total is None:
        raise ModelError("no cells", wanted="at least one", where="edges by context_embedding")
    number = {name: i for i, name in enumerate(genes)}
    weights = cosines(
        total / np.maximum(seen, 1)[:, None], [number[name] for name in rows], [number[name] for name in columns]
    )
    how = f"|cosine| of gene vectors in cells, layer {layer}, mean over the cells with the gene among {len(chosen):,}"
    return edge_table(weights, rows, columns, how=how)


@torch.no_grad()
def attention(
    network: Any,
    tokens: Ragged,
    ids: dict[str, int],
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    layer: int | None = None,
    n_cells: int = ATTENTION_CELLS,
    seed: int = SEED,
) -> pd.DataFrame:
    """Mean attention that the position of a target (query) pays to that of a regulator (key).

    Averaged over heads and layers, then over the cells that hold both genes; times the length of the cell, so that
    even attention is 1 in short and long cells. One cell's maps are in memory at a time.

    Parameters
    ----------
    layer
        One layer alone, 0 is the last, -1 the one before; None is the mean of all.
    n_cells
        Most cells, drawn with ``seed``.

    Raises
    ------
    ModelError
        The family hands out no attention, or has no such layer.
    """
    _require(network, "attention")
    rows, columns = known(ids, regulators), known(ids, targets)
    row_of, column_of = _places(ids, rows), _places(ids, columns)
    total, seen = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")  # the fused kernels give no probabilities
    network.eval()
    chosen = _drawn(len(tokens), n_cells, seed)
    try:
        for cell in chosen:
            batch = _batch(network, tokens, np.array([cell]))
            maps = getattr(network(**batch, output_attentions=True), "attentions", None)
            if not maps:
                raise _unable(network, "attention")
            if layer is not None:
                maps = [maps[_layer(layer, len(maps))]]
            mean_LL = torch.stack([one[0].float().mean(0) for one in maps]).mean(0).cpu().numpy()
            here = batch["input_ids"][0].cpu().numpy()
            r, at = _positions(here, row_of)
            t, to = _positions(here, column_of)
            total[np.ix_(r, t)] += mean_LL[np.ix_(to, at)].T * len(here)
            seen[np.ix_(r, t)] += 1
    finally:
        network.set_attn_implementation(before)
    how = (
        f"attention of the target to the regulator, mean of heads and {'layers' if layer is None else f'layer {layer}'}"
        f", over the cells with both among {len(chosen):,}"
    )
    return edge_table(np.divide(total, seen, out=np.zeros_like(total), where=seen > 0), rows, columns, how=how)


def _layer(layer: int, n_layers: int) -> int:
    """Place of a layer that is counted from the last: 0, -1, and so on."""
    if not -n_layers < layer <= 0:
        raise ModelError(f"layer={layer}", wanted=f"0 (last) to {1 - n_layers} (first)", where="edges by attention")
    return n_layers - 1 + layer


@torch.no_grad()
def knockout(
    network: Any,
    tokens: Ragged,
    ids: dict[str, int],
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    n_regulators: int | None = KNOCKOUT_REGULATORS,
    n_cells: int = KNOCKOUT_CELLS,
    seed: int = SEED,
) -> pd.DataFrame:
    """How far the vector of a target in its cell moves when the token of a regulator is taken out.

    1 - cosine between the target's vector in the last layer with and without the regulator, averaged over the cells
    that hold both (the in-silico deletion of Geneformer, Theodoris et al. 2023). A causal network reads a cell in
    order: there a regulator moves the genes behind it alone.

    Parameters
    ----------
    n_regulators
        Most regulators, those that most cells hold; None takes all. Others have no edges.
    n_cells
        Most cells for each of them, drawn with ``seed``.

    Raises
    ------
    ModelError
        The family hands out no vectors of genes.
    """
    _require(network, "knockout")
    rows, columns = known(ids, regulators), known(ids, targets)
    column_of = _places(ids, columns)
    cell_of = np.repeat(np.arange(len(tokens)), tokens.lengths)
    holders = {name: np.unique(cell_of[tokens.columns["input_ids"] == ids[name]]) for name in rows}
    chosen = sorted(rows, key=lambda name: (-len(holders[name]), name))[:n_regulators]
    weights, rng = np.zeros((len(chosen), len(columns))), np.random.default_rng(seed)
    for number, name in enumerate(chosen):
        total, seen = np.zeros(len(columns)), np.zeros(len(columns))
        for cell in np.sort(rng.permutation(holders[name])[:n_cells]):
            whole = tokens.select(np.array([cell]))
            kept = whole.columns["input_ids"] != ids[name]
            left = {column: values[kept] for column, values in whole.columns.items()}
            t, at = _positions(left["input_ids"], column_of)
            if not len(t):
                continue  # nothing to look at is left
            without = Ragged(np.array([0, int(kept.sum())]), left, whole.cell_tensors, whole.pad_values)
            total[t] += _moved(_states(network, whole)[kept][at], _states(network, without)[at])
            seen[t] += 1
        weights[number] = np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)
    how = (
        f"1 - cosine of the target's vector with and without the regulator, the {len(chosen):,} of {len(rows):,} "
        f"regulators that most cells hold, at most {n_cells} cells each"
    )
    return edge_table(weights, chosen, columns, how=how)


def _moved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - cosine of each row of two arrays (n, D), never negative; 0 below `STILL`."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    moved = np.square(a - b).sum(axis=1) / 2
    return np.where(moved < STILL, 0.0, moved)


def cosines(table: np.ndarray, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    """|Cosine| of rows of a table, (R, T)."""
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.abs(table[list(rows)] @ table[list(columns)].T)


def _states(network: Any, tokens: Ragged, *, layer: int = 0) -> np.ndarray:
    """Vector of every token of one cell, float64 (L, D)."""
    try:
        states = network.embed(**_batch(network, tokens, np.array([0])), layer=layer, pooling="gene")
    except ValueError as error:
        raise from_value_error(ModelError, error) from error
    found: np.ndarray = states[0, : int(tokens.lengths[0])].double().cpu().numpy()
    return found


def _batch(network: Any, tokens: Ragged, rows: np.ndarray) -> dict[str, torch.Tensor]:
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in padded_tensors(tokens, rows).items()}
    batch.pop("labels", None)
    return batch


def known(ids: dict[str, int], names: Sequence[str]) -> list[str]:
    """Those of the names that have a token."""
    return [name for name in names if name in ids]


def _places(ids: dict[str, int], names: Sequence[str]) -> dict[int, int]:
    """Token to place in the list."""
    return {ids[name]: place for place, name in enumerate(names)}


def _positions(here: np.ndarray, places: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places in the list and positions in the cell of the tokens that are in both."""
    found = [(places[int(token)], at) for at, token in enumerate(here) if int(token) in places]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _drawn(n_cells: int, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(n_cells)[:count])
