"""Gene networks: how well weights of edges find the known targets of transcription factors.

Lives here: the benchmark, the choice of genes, intervals over regulators. Lives elsewhere: formulas
(metrics), networks (truth), baselines (baselines), edges of a model
(model_edges).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.genes.ids import canonical, is_ensembl
from scmf.data.genes.vocabulary import annotation
from scmf.evaluation.baselines import log_normalized
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.gene_network.metric_table import METRICS
from scmf.evaluation.gene_network.metrics import RegulatorDraws, edge_scores, pairs_of, weight_matrix
from scmf.evaluation.gene_network.truth import NetworkTruth, read_truth
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.tasks import Task
from scmf.evaluation.uncertainty import bootstrap
from scmf.results.score import FEW_UNITS, Score

log = logging.getLogger(__name__)

DRAWS = 200
SHOWN = 30
"""Regulators whose own AUROC stands in the details."""


def symbols_of(cells: Any) -> np.ndarray:
    """Gene symbol of each column in capitals, str (G,); "" where there is none."""
    names = cells.var.get("symbol", cells.var_names)
    return np.char.upper(np.asarray(names, dtype=str))


def with_symbols(cells: Any) -> Any:
    """The cells with ``var["symbol"]`` from the human gene table (GENCODE) where an Ensembl id has no other name.

    Parameters
    ----------
    cells
        AnnData. One without such genes is returned as it is, and no table is read.
    """
    names, ids = symbols_of(cells), [canonical(name) for name in cells.var_names]
    lost = [is_ensembl(gene) and (not name or is_ensembl(name)) for name, gene in zip(names, ids, strict=True)]
    if not any(lost):
        return cells
    rows = annotation("human-genes")
    known = dict(zip(rows["gene"], rows["symbol"], strict=True))
    named = cells.copy()
    named.var["symbol"] = [
        known.get(gene, "") if nameless else str(name) for name, gene, nameless in zip(names, ids, lost, strict=True)
    ]
    return named


def network_genes(
    cells: Any, truths: Sequence[NetworkTruth], *, top_genes: int | None = None
) -> tuple[Any, list[str], list[str]]:
    """The cells on the genes that take part, the regulators and the targets.

    Targets are the most variable genes (scanpy, flavor ``seurat``, of training cells) and the regulators; regulators
    are the transcription factors of any truth that at least 5 % of the cells express. Where no factor is among the
    names of the genes, Ensembl ids are named by the human gene table (`with_symbols`).

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
    factors = set().union(*(truth.regulators for truth in truths))
    if not np.isin(symbols_of(cells), sorted(factors)).any():
        cells = with_symbols(cells)
    symbols = symbols_of(cells)
    first = np.zeros(len(symbols), dtype=bool)
    first[np.unique(symbols, return_index=True)[1]] = True
    first &= symbols != ""
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

        training = cells[cells.rows("train")]
        reference = log_normalized(training)[:, first].copy()
        sc.pp.highly_variable_genes(reference, n_top_genes=top_genes, flavor="seurat")
        kept[np.flatnonzero(first)[~reference.var["highly_variable"].to_numpy()]] = False
        kept |= regulator
    chosen = cells[:, kept].copy()
    return chosen, symbols[regulator].tolist(), symbols[kept].tolist()


class GeneNetwork(Benchmark):
    """Benchmark ``gene_network``.

    Parameters
    ----------
    draws
        Draws of the bootstrap over regulators.
    """

    name = "gene_network"
    asks_for = "edges between genes"
    task_options = ("truths", "top_genes")
    required_options = {"truths": "must name at least one network"}

    def __init__(self, *, draws: int = DRAWS) -> None:
        self.draws = draws

    @classmethod
    def score(cls, task: Task, submission: Submission, cells: TaskCells) -> Iterator[Score]:
        """Scores of the edges against every network that the task names."""
        truths = [read_truth(name) for name in task.truths]
        chosen, regulators, targets = network_genes(cells.adata, truths, top_genes=task.top_genes)
        if len(edges := submission.edges(task, chosen, regulators, targets)):
            log.info(f"gene networks: {', '.join(edges)}")
            for truth in truths:
                yield from cls().run(edges, truth, targets, regulators=regulators)

    def run(
        self,
        edges: Mapping[str, Any],
        truth: NetworkTruth,
        genes: Sequence[str],
        *,
        regulators: Sequence[str] | None = None,
        universe: Literal["regulators", "genes"] = "regulators",
    ) -> Iterator[Score]:
        """Score every table of edges.

        Parameters
        ----------
        edges
            Method to edges as `scmf.evaluation.gene_network.metrics.weight_matrix` takes them, of gene symbols. What
            ``attrs["how"]`` of a data frame says stands in the details.
        truth
            The network.
        genes
            Symbols of the genes in the data.
        regulators
            Genes that weights were computed from; pairs of others are left out. All when None.
        universe
            ``regulators``: regulators of the network with its targets. ``genes``: all ordered pairs of its genes, as
            BEELINE for simulated networks; filed under the protocol ``<truth>-all_genes``.

        Raises
        ------
        EvaluationError
            No pair of the universe is an edge, or the edges are no edges.
        """
        known = set(map(str, genes)) & truth.genes
        chosen = known if regulators is None else known & set(regulators)
        if universe == "regulators":
            rows, columns = sorted(chosen & set(truth.regulators)), sorted(known & set(truth.targets))
            who = f"{len(rows)} regulators of {truth.source} with {len(columns)} of its targets in the data"
            protocol = truth.name
        else:
            rows, columns = sorted(chosen), sorted(known)
            who = f"{len(rows)} genes of {truth.source} with all {len(columns)} of them in the data"
            protocol = f"{truth.name}-all_genes"
        pairs = Pairs(truth, rows, columns, who, protocol)
        if not pairs.is_edge.any():
            raise EvaluationError(
                f"no edge of {truth.name!r} among {len(known)} genes", wanted="known edges between genes of the data",
                where="gene network", fix="take more genes, or another network",
            )  # fmt: skip
        for method, table in edges.items():
            yield self._score(method, table, pairs)

    def _score(self, method: str, table: Any, pairs: Pairs) -> Score:
        started = time.perf_counter()
        weights = weight_matrix(table, pairs.rows, pairs.columns)
        metrics = edge_scores(weights[pairs.universe], pairs.is_edge[pairs.universe])
        draws = RegulatorDraws(weights, pairs.is_edge, pairs.universe)
        enough = len(pairs.rows) >= FEW_UNITS
        how = getattr(table, "attrs", {}).get("how")
        return Score(
            benchmark=self.name,
            protocol=pairs.protocol,
            method=method,
            metrics=metrics,
            **METRICS.facts(metrics, universe=pairs.description),
            n_cells=int(pairs.universe.sum()),
            n_train=None,
            seconds=time.perf_counter() - started,
            details={**pairs.details(weights), **({"how": how} if how else {})},
            intervals=bootstrap(draws, len(pairs.rows), unit="regulators", draws=self.draws) if enough else {},
        )


class Pairs:
    """The pairs that are scored, and which of them are edges.

    Parameters
    ----------
    truth
        The network.
    rows, columns
        Symbols of R regulators and of T targets.
    who
        The two of them in words.
    protocol
        The name under which scores are filed.
    """

    def __init__(self, truth: NetworkTruth, rows: list[str], columns: list[str], who: str, protocol: str) -> None:
        self.truth, self.rows, self.columns, self.protocol = truth, rows, columns, protocol
        self.universe = pairs_of(rows, columns)
        self.is_edge = np.zeros(self.universe.shape, dtype=bool)
        row, column = {name: i for i, name in enumerate(rows)}, {name: i for i, name in enumerate(columns)}
        for a, b in truth.edges:
            if a in row and b in column:
                self.is_edge[row[a], column[b]] = True
        self.is_edge &= self.universe
        self.n_pairs, self.n_edges = int(self.universe.sum()), int(self.is_edge.sum())
        share = self.n_edges / max(self.n_pairs, 1)
        self.description = (
            f"{self.n_pairs:,} ordered pairs of {who}, no self loops, {self.n_edges:,} edges ({share:.2%} of the pairs)"
        )

    def details(self, weights: np.ndarray) -> dict[str, Any]:
        """What stands beside the metrics of weights (R, T).

        ``per_regulator``: AUROC of the `SHOWN` regulators with most targets. ``weighted``: the share of pairs and of
        edges that have a weight at all, and the metrics among those pairs alone. A method that knows few genes is near
        chance over the universe however good its weights are, and on either side of it if the genes that it knows are
        regulated more, or less, than others.
        """
        each = {}
        n_targets = self.is_edge.sum(axis=1)
        for row in sorted(np.flatnonzero(n_targets), key=lambda r: (-int(n_targets[r]), self.rows[r]))[:SHOWN]:
            mine = self.universe[row]
            if found := edge_scores(weights[row][mine], self.is_edge[row][mine]):
                each[self.rows[row]] = {"auroc": round(found["auroc"], 6), "n_targets": int(n_targets[row])}
        some = self.universe & (weights > 0)
        among = {name: round(value, 6) for name, value in edge_scores(weights[some], self.is_edge[some]).items()}
        shares = {"pairs": float(some.sum() / self.n_pairs), "edges": float((some & self.is_edge).sum() / self.n_edges)}
        return {
            "per_regulator": each,
            "n_edges": self.n_edges,
            "n_pairs": self.n_pairs,
            "weighted": {**{name: round(value, 6) for name, value in shares.items()}, "metrics": among},
            "truth_sha256": self.truth.sha256,
        }
