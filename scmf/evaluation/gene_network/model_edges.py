"""Edges between genes from a model: its gene vectors, and what it does with genes in cells; and the vectors themselves.

Lives here: which ways a model can go, tokens of genes, vectors of genes without a cell. Lives elsewhere: attention,
knock-out and vectors in cells (model_contexts), what the edges are held against (benchmark), the networks
(scmf.models), tokens of cells (scmf.tokenizers.build).

Array legend: D width, V tokens, R regulators, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import ConfigError
from scmf.data.genes.vocabulary import annotation
from scmf.data.stores.ragged import Ragged
from scmf.evaluation.gene_network.baselines import edge_table
from scmf.evaluation.gene_network.benchmark import symbols_of
from scmf.evaluation.gene_network.model_contexts import (
    WAYS,
    attention,
    can,
    context_embedding,
    cosines,
    knockout,
    known,
)
from scmf.tokenizers.build import tokenize

DEFAULT_WAYS = ("gene_embedding", "attention", "knockout")


_IN_CELLS: dict[str, Callable[..., pd.DataFrame]] = {
    "attention": attention,
    "knockout": knockout,
    "context_embedding": context_embedding,
}


def model_edges(
    network: Any,
    tokenizer: Any,
    cells: Any,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    ways: Sequence[str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Way to edges.

    Parameters
    ----------
    network, tokenizer
        A model and its tokenizer.
    cells
        AnnData with raw counts; ``var["symbol"]`` gives the names of genes.
    regulators, targets
        Symbols in capitals.
    ways
        Of `WAYS`; None takes those of `DEFAULT_WAYS` that the family can.

    Raises
    ------
    ConfigError
        A way is unknown.
    ModelError
        The family cannot go a way that was asked for.
    """
    if ways is None:
        ways = [way for way in DEFAULT_WAYS if can(network, way)]
    if unknown := [way for way in ways if way not in WAYS]:
        raise ConfigError(f"way {unknown[0]!r}", wanted=f"one of {', '.join(WAYS)}", where="edges of a model")
    ids = token_ids(tokenizer, cells)
    tokens = _tokens(tokenizer, cells) if set(ways) - {"gene_embedding"} else None
    found = {}
    for way in ways:
        if tokens is None or way == "gene_embedding":
            found[way] = gene_embedding(network, ids, regulators, targets)
        else:
            found[way] = _IN_CELLS[way](network, tokens, ids, regulators, targets)
    return found


def token_ids(tokenizer: Any, cells: Any) -> dict[str, int]:
    """Symbol in capitals to token of every gene of the cells that the tokenizer knows, by its id or by its symbol."""
    vocabulary = tokenizer.get_vocab()
    found: dict[str, int] = {}
    for name, symbol in zip(cells.var_names, symbols_of(cells), strict=True):
        for written in (str(name), str(name).partition(".")[0], str(symbol)):
            if symbol and written in vocabulary:
                found.setdefault(str(symbol), int(vocabulary[written]))
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
    vocabulary, table = tokenizer.get_vocab(), _table(network)
    wanted = list(dict.fromkeys(map(str, genes)))
    found = {gene: table[vocabulary[gene]] for gene in wanted if gene in vocabulary}
    if len(found) < len(wanted) and any(name.startswith("ENSG") for name in vocabulary):
        ids = _ensembl(wanted)
        found |= {gene: table[vocabulary[ids[gene]]] for gene in wanted if ids.get(gene) in vocabulary}
    return found


def _ensembl(genes: Sequence[str]) -> dict[str, str]:
    """Symbol to Ensembl id by GENCODE, where a symbol has one gene."""
    rows = annotation("human-genes")
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
    rows, columns = known(ids, regulators), known(ids, targets)
    weights = cosines(_table(network), [ids[name] for name in rows], [ids[name] for name in columns])
    return edge_table(weights, rows, columns, how="|cosine| of input gene vectors")


def _tokens(tokenizer: Any, cells: Any) -> Ragged:
    """Tokens of the cells that hold a gene of the tokenizer, without batches: a model knows those of its training."""
    vocabulary = tokenizer.get_vocab()
    names = [str(name) in vocabulary or str(name).partition(".")[0] in vocabulary for name in cells.var_names]
    mine = cells[np.asarray(cells[:, names].X.sum(axis=1)).ravel() > 0] if any(names) else cells
    return tokenize(tokenizer, mine.without_batches())
