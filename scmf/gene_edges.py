"""Edges between genes from a model: attention, gene vectors, in-silico knock-out; and the vectors of genes.

Lives here: what is read off a network, bounded and averaged over cells. Lives elsewhere: what the edges are held
against (eval.gene_network), the networks (models), tokens (tokenising).

Array legend: N cells, L positions, H heads, D width, V tokens, R regulators, T targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from scmf.eval.gene_network import symbols_of
from scmf.eval.gene_network_baselines import edge_table
from scmf.tokenising import tokenise
from scmf.training.batches import TokenCells

SEED = 0
ATTENTION_CELLS = 200
KNOCKOUT_REGULATORS, KNOCKOUT_CELLS = 60, 8
"""The regulators that most cells hold, and cells for each of them."""

ATTENTIVE = ("scmf_transformer_encoder", "scmf_generative_transformer")
"""Families that hand out attention probabilities."""

CONTEXTUAL = (*ATTENTIVE, "scmf_autoregressive_transformer")
"""Families that hand out the vector of each gene in its cell."""


def model_edges(
    network: Any, tokenizer: Any, cells: Any, *, regulators: Sequence[str], targets: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Method to edges: ``gene_embedding``, and ``attention`` and ``knockout`` where the family can.

    Parameters
    ----------
    network, tokenizer
        A model and its tokenizer.
    cells
        AnnData with raw counts; ``var["symbol"]`` gives the names of genes.
    regulators, targets
        Symbols in capitals.
    """
    ids = token_ids(tokenizer, cells)
    found = {"gene_embedding": gene_embedding(network, ids, regulators, targets)}
    kind = network.config.model_type
    if kind in CONTEXTUAL:
        tokens = _tokens(tokenizer, cells)
        if kind in ATTENTIVE:
            found["attention"] = attention(network, tokens, ids, regulators, targets)
        found["knockout"] = knockout(network, tokens, ids, regulators, targets)
    return found


def token_ids(tokenizer: Any, cells: Any) -> dict[str, int]:
    """Symbol in capitals to token of every gene of the cells that the tokenizer knows, by its id or by its symbol."""
    known = tokenizer.get_vocab()
    found: dict[str, int] = {}
    for name, symbol in zip(cells.var_names, symbols_of(cells), strict=True):
        for written in (str(name), str(name).partition(".")[0], str(symbol)):
            if symbol and written in known:
                found.setdefault(str(symbol), int(known[written]))
                break
    return found


def gene_vectors(network: Any, tokenizer: Any, genes: Iterable[str]) -> dict[str, np.ndarray]:
    """Input vector of each gene that the tokenizer knows, by name or through the human gene table.

    Parameters
    ----------
    genes
        Symbols or Ensembl ids.

    Returns
    -------
    dict
        Gene as written to vector (D,); empty when no gene is known.
    """
    known, table = tokenizer.get_vocab(), _table(network)
    wanted = list(dict.fromkeys(map(str, genes)))
    found = {gene: table[known[gene]] for gene in wanted if gene in known}
    if len(found) < len(wanted) and any(name.startswith("ENSG") for name in known):
        ids = _ensembl(wanted)
        found |= {gene: table[known[ids[gene]]] for gene in wanted if gene in ids and ids[gene] in known}
    return found


def _ensembl(genes: Sequence[str]) -> dict[str, str]:
    """Symbol to Ensembl id by GENCODE, where a symbol has one gene."""
    from scmf.data.vocabulary import annotation

    rows = annotation("human-genes", progress=False)
    rows = rows[~rows["symbol"].duplicated(keep=False)]
    ids = dict(zip(rows["symbol"], rows["gene"], strict=True))
    return {gene: ids[gene] for gene in genes if gene in ids}


def _table(network: Any) -> np.ndarray:
    """The table of gene vectors, float64 (V, D)."""
    weight = network.get_input_embeddings().weight
    table: np.ndarray = weight.detach().float().cpu().numpy().astype(np.float64)
    return table


def gene_embedding(
    network: Any, ids: dict[str, int], regulators: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """|Cosine| of the input vectors of two genes: what the network knows of them without a cell."""
    table = _table(network)
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    rows, columns = _known(ids, regulators), _known(ids, targets)
    weights = np.abs(table[[ids[name] for name in rows]] @ table[[ids[name] for name in columns]].T)
    return edge_table(weights, rows, columns)


@torch.no_grad()
def attention(
    network: Any, tokens: TokenCells, ids: dict[str, int], regulators: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """Mean attention that the position of a target pays to that of a regulator.

    Averaged over heads and layers, then over the cells (`ATTENTION_CELLS` of them, drawn with a fixed seed) that hold
    both genes; times the length of the cell, so that even attention is 1 in short and long cells.
    """
    rows, columns = _known(ids, regulators), _known(ids, targets)
    row_of, column_of = _places(ids, rows), _places(ids, columns)
    total, seen = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")  # the fused kernels give no probabilities
    network.eval()
    try:
        for cell in _drawn(len(tokens), ATTENTION_CELLS):
            batch = _batch(network, tokens, np.array([cell]))
            maps = network(**batch, output_attentions=True).attentions
            mean_LL = torch.stack([layer[0].float().mean(0) for layer in maps]).mean(0).cpu().numpy()
            here = batch["input_ids"][0].cpu().numpy()
            r, at = _positions(here, row_of)
            t, to = _positions(here, column_of)
            total[np.ix_(r, t)] += mean_LL[np.ix_(to, at)].T * len(here)
            seen[np.ix_(r, t)] += 1
    finally:
        network.set_attn_implementation(before)
    return edge_table(np.divide(total, seen, out=np.zeros_like(total), where=seen > 0), rows, columns)


@torch.no_grad()
def knockout(
    network: Any, tokens: TokenCells, ids: dict[str, int], regulators: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """How far the vector of a target in its cell moves when the token of a regulator is taken out.

    1 - cosine between the target's last hidden state with and without the regulator, averaged over at most
    `KNOCKOUT_CELLS` cells that hold both, for the `KNOCKOUT_REGULATORS` that most cells hold (as the in-silico
    deletion of Geneformer). Other regulators have no edges.
    """
    network.eval()
    rows, columns = _known(ids, regulators), _known(ids, targets)
    column_of = _places(ids, columns)
    cell_of = np.repeat(np.arange(len(tokens)), tokens.lengths)
    holders = {name: np.unique(cell_of[tokens.columns["input_ids"] == ids[name]]) for name in rows}
    chosen = sorted(rows, key=lambda name: (-len(holders[name]), name))[:KNOCKOUT_REGULATORS]
    weights, rng = np.zeros((len(chosen), len(columns))), np.random.default_rng(SEED)
    for number, name in enumerate(chosen):
        mine = np.sort(rng.permutation(holders[name])[:KNOCKOUT_CELLS])
        total, seen = np.zeros(len(columns)), np.zeros(len(columns))
        for cell in mine:
            whole = tokens.select(np.array([cell]))
            kept = whole.columns["input_ids"] != ids[name]
            if not kept.any():
                continue
            without = TokenCells(
                np.array([0, int(kept.sum())]), {k: v[kept] for k, v in whole.columns.items()}, whole.cells, whole.fill
            )
            a, b = (_states(network, one) for one in (whole, without))
            moved = 1 - torch.nn.functional.cosine_similarity(a[torch.from_numpy(kept)], b, dim=1).cpu().numpy()
            t, at = _positions(without.columns["input_ids"], column_of)
            total[t] += moved[at]
            seen[t] += 1
        weights[number] = np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)
    return edge_table(weights, chosen, columns)


def _states(network: Any, tokens: TokenCells) -> torch.Tensor:
    """Last hidden state of every position of one cell, (L, D)."""
    states = network(**_batch(network, tokens, np.array([0])), output_hidden_states=True).hidden_states
    last: torch.Tensor = states[-1][0].float()
    return last[: int(tokens.lengths[0])]


def _batch(network: Any, tokens: TokenCells, rows: np.ndarray) -> dict[str, torch.Tensor]:
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in tokens.pad(rows).items()}
    batch.pop("labels", None)
    return batch


def _tokens(tokenizer: Any, cells: Any) -> TokenCells:
    """Tokens of the cells that hold a gene of the tokenizer, without batches: a model knows those of its training."""
    known = tokenizer.get_vocab()
    names = [str(name) in known or str(name).partition(".")[0] in known for name in cells.var_names]
    mine = cells[np.asarray(cells[:, names].X.sum(axis=1)).ravel() > 0] if any(names) else cells
    mine = mine.copy()
    mine.uns["scmf"] = {**mine.uns["scmf"], "batch_key": None}
    return tokenise(tokenizer, mine)


def _known(ids: dict[str, int], names: Sequence[str]) -> list[str]:
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


def _drawn(n_cells: int, count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(SEED).permutation(n_cells)[:count])
