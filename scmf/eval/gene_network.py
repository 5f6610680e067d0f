"""Gene networks: how well weights of edges find the known targets of transcription factors.

Lives here: the benchmark, the choice of genes, intervals over regulators. Lives elsewhere: formulas
(gene_network_metrics), networks (network_truth), baselines (gene_network_baselines), edges of a model
(scmf.gene_edges).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from scmf.errors import EvaluationError
from scmf.eval.gene_network_metrics import definitions, edge_scores, pairs_of, weight_matrix
from scmf.eval.network_truth import NetworkTruth
from scmf.eval.score import Score
from scmf.eval.uncertainty import bootstrap

DRAWS = 200
SHOWN = 30
"""Regulators whose own AUROC stands in the details."""


def symbols_of(cells: Any) -> np.ndarray:
    """Gene symbol of each column in capitals, str (G,); "" where there is none."""
    names = cells.var.get("symbol", cells.var_names)
    return np.char.upper(np.asarray(names, dtype=str))


def network_genes(
    cells: Any, truths: Sequence[NetworkTruth], *, top_genes: int | None = None
) -> tuple[Any, list[str], list[str]]:
    """The cells on the genes that take part, the regulators and the targets.

    Targets are the most variable genes (scanpy, flavour ``seurat``, of training cells) and the regulators; regulators
    are the transcription factors of any truth that at least 5 % of the cells express.

    Parameters
    ----------
    cells
        AnnData with raw counts.
    truths
        Networks that will be held against.
    top_genes
        How many variable genes; all genes when None.

    Raises
    ------
    EvaluationError
        No regulator is expressed.
    """
    from scmf.eval.baselines import log_normalised

    symbols = symbols_of(cells)
    first = np.zeros(len(symbols), dtype=bool)
    first[np.unique(symbols, return_index=True)[1]] = True
    first &= symbols != ""
    factors = set().union(*(truth.regulators for truth in truths)) if truths else set()
    share = np.asarray((cells.X > 0).mean(axis=0)).ravel()
    regulator = first & np.isin(symbols, sorted(factors)) & (share >= 0.05)
    if not regulator.any():
        raise EvaluationError(
            "no transcription factor of the truths is expressed in 5 % of the cells", wanted="at least one",
            where="gene network", fix="check that gene symbols are known (var['symbol'])",
        )  # fmt: skip
    kept = first.copy()
    if top_genes is not None and top_genes < first.sum():
        import scanpy as sc

        training = cells[cells.obs["part"] == "train"] if "part" in cells.obs else cells
        reference = log_normalised(training)[:, first].copy()
        sc.pp.highly_variable_genes(reference, n_top_genes=top_genes, flavor="seurat")
        kept[np.flatnonzero(first)[~reference.var["highly_variable"].to_numpy()]] = False
        kept |= regulator
    chosen = cells[:, kept].copy()
    return chosen, symbols[regulator].tolist(), symbols[kept].tolist()


class GeneNetwork:
    """Benchmark ``gene_network``.

    Parameters
    ----------
    draws
        Draws of the bootstrap over regulators.
    """

    name = "gene_network"

    def __init__(self, *, draws: int = DRAWS) -> None:
        self.draws = draws

    def run(
        self,
        edges: Mapping[str, Any],
        truth: NetworkTruth,
        genes: Sequence[str],
        *,
        regulators: Sequence[str] | None = None,
    ) -> Iterator[Score]:
        """Score every table of edges.

        Parameters
        ----------
        edges
            Method to a table ``regulator, target, weight`` of gene symbols.
        truth
            The network.
        genes
            Symbols of the genes in the data.
        regulators
            Genes that weights were computed from; pairs of others are left out. All when None.

        Raises
        ------
        EvaluationError
            No pair of the universe is an edge.
        """
        known = set(map(str, genes)) & ({a for a, _ in truth.edges} | {b for _, b in truth.edges})
        rows = [name for name in truth.regulators if name in known and (regulators is None or name in set(regulators))]
        columns = [name for name in truth.targets if name in known]
        universe = pairs_of(rows, columns)
        column = {name: i for i, name in enumerate(columns)}
        is_edge = np.zeros(universe.shape, dtype=bool)
        place = {name: i for i, name in enumerate(rows)}
        for a, b in truth.edges:
            if a in place and b in column:
                is_edge[place[a], column[b]] = True
        if not (is_edge & universe).any():
            raise EvaluationError(
                f"no edge of {truth.name!r} among {len(known)} genes", wanted="known edges between genes of the data",
                where="gene network", fix="take more genes, or another network",
            )  # fmt: skip
        for method, table in edges.items():
            started = time.perf_counter()
            weights = weight_matrix({k: table[k] for k in table}, rows, columns)
            yield self._score(method, truth, weights, is_edge, universe, rows, started)

    def _score(
        self,
        method: str,
        truth: NetworkTruth,
        weights: np.ndarray,
        is_edge: np.ndarray,
        universe: np.ndarray,
        rows: list[str],
        started: float,
    ) -> Score:
        metrics = edge_scores(weights[universe], is_edge[universe])

        def of(chosen: np.ndarray) -> dict[str, float]:
            mine = universe[chosen]
            return edge_scores(weights[chosen][mine], is_edge[chosen][mine])

        with_edges = np.flatnonzero((is_edge & universe).any(axis=1))
        n_edges, n_pairs = int(is_edge[universe].sum()), int(universe.sum())
        said = (
            f"{n_pairs:,} ordered pairs of {len(rows)} regulators of {truth.source} with {universe.shape[1]} of its "
            f"targets "
            f"in the data, no self loops, {n_edges:,} edges"
        )
        each = {}
        for row in sorted(with_edges, key=lambda r: (-int(is_edge[r].sum()), rows[r]))[:SHOWN]:
            if found := of(np.array([row])):
                each[rows[row]] = {"auroc": round(found["auroc"], 6), "n_targets": int(is_edge[row].sum())}
        return Score(
            benchmark=self.name,
            protocol=truth.name,
            method=method,
            metrics=metrics,
            definitions=definitions(universe=said),
            n_cells=n_pairs,
            n_train=None,
            seconds=time.perf_counter() - started,
            details={"per_regulator": each, "n_edges": n_edges, "n_pairs": n_pairs, "truth_sha256": truth.sha256},
            intervals=bootstrap(of, len(rows), unit="regulators", draws=self.draws) if len(rows) > 1 else {},
        )
