"""The verb ``perturb``: genes of the cells of a file deleted or over-expressed in silico, by any model.

Lives here: from a file to a table of cells and one of perturbations. Lives elsewhere: the request (request), genes
(genes), states (states), edits (plan, edits), embedding and cosines (shifts), tests (statistics).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scmf.core.config.run import DataConfig, EvalConfig, validate
from scmf.core.errors import ConfigError, DataError, MissingExtraError
from scmf.core.files import atomic_path
from scmf.core.outputs import try_file
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.load import load_cells
from scmf.data.stores.open import one_store
from scmf.evaluation.as_in_run import as_in_run, batch_column
from scmf.evaluation.embedder import embedding_settings
from scmf.evaluation.in_silico.edits import CountEditor, Editor, Frame, RankEditor
from scmf.evaluation.in_silico.genes import Gene, every_gene, named_genes
from scmf.evaluation.in_silico.plan import Plan, Targets, sample
from scmf.evaluation.in_silico.request import Reading, Request
from scmf.evaluation.in_silico.shifts import Measure, Shifts, cosine, measure
from scmf.evaluation.in_silico.statistics import summary
from scmf.evaluation.submissions.model import tokens_for
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import embed_tokens, on_device
from scmf.models.published.names import find_model
from scmf.results.pages.escape import csv_cell
from scmf.tokenizers.coverage import tell_known_share
from scmf.tokenizers.rank_value import RankValueTokenizer
from scmf.tokenizers.species import through_orthologs

log = logging.getLogger(__name__)

REDRAWN = 256
"""Cells whose tokens are drawn twice, to see how far that alone moves them."""


@dataclass(frozen=True)
class Perturbed:
    """What was found.

    Parameters
    ----------
    table
        One row for each perturbation, see `scmf.evaluation.in_silico.statistics.summary`; with the ``symbol``.
    cells
        One row for each perturbation and cell: ``perturbation``, ``cell``, ``cosine``, ``shift_to_<state>``; with a
        null also ``cells``: ``test``, or ``other`` for the cells of the null.
    facts
        Definition, embedding, numbers of cells, cells that were left out.
    """

    table: pd.DataFrame
    cells: pd.DataFrame
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Facts and table as a JSON object; what is not known is null."""
        rows = self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        return {**self.facts, "statistics": rows}


class _Model(NamedTuple):
    """A network with all that is needed to give cells to it."""

    folder: Path
    network: Any
    tokenizer: Any
    settings: EvalConfig
    reading: Reading

    @property
    def specials(self) -> tuple[int, ...]:
        """Tokens around the genes of a ranking."""
        has = isinstance(self.tokenizer, RankValueTokenizer) and self.tokenizer.special_tokens
        return (self.tokenizer.cls_token_id, self.tokenizer.eos_token_id) if has else ()

    @property
    def measure(self) -> Measure:
        """What of a cell is compared: by gene where cells are rankings without ``<cls>``, as in the official code."""
        by_gene = isinstance(self.tokenizer, RankValueTokenizer) and self.settings.pooling == "cell"
        return Measure(
            self.settings.embedding_layer, self.settings.pooling, self.settings.batch_size,
            by_gene=by_gene and bool(getattr(self.network, "gives_gene_vectors", False)), special_ids=self.specials,
        )  # fmt: skip

    def load(self, file: Path | str) -> LoadedCells:
        """The cells of a file, held against the vocabulary."""
        stored, reading = one_store(str(file), verb="perturb"), self.reading
        keys: dict[str, Any] = {"files": [stored], "counts": reading.counts, "gene_ids": reading.gene_ids}
        keys["counts_rounding"] = reading.counts_rounding
        keys |= as_in_run(stored, self.folder, self.tokenizer, keys)
        cells = load_cells(validate(DataConfig, keys, where="perturb"))
        tell_known_share(self.tokenizer, cells, allow=reading.allow_low_coverage)
        names, where = cells.obs.columns, cells.facts.dataset
        column = batch_column(self.network, self.folder, reading.batch_key, names, where=where)
        return cells if column is None else replace(cells, facts=replace(cells.facts, batch_key=column))

    def embed(self, cells: LoadedCells, *, draw: int = 0) -> np.ndarray:
        """Vectors of cells as they are, float64 (N, D)."""
        tokens = tokens_for(self.network, self.tokenizer, cells, draw=draw)
        return embed_tokens(self.network, tokens, settings=self.settings).astype(np.float64)


def perturb(
    model: Path | str,
    file: Path | str,
    request: Request,
    *,
    null: Path | str | None = None,
    out: Path | None = None,
    reading: Reading | None = None,
    layer: int | None = None,
    pooling: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> Perturbed:
    """Perturb genes of the cells of a file and compare the embeddings.

    Parameters
    ----------
    model
        Folder of a run or of a checkpoint, or a name; see `scmf.models.published.names.find_model`.
    file
        .h5ad file or zarr group with raw counts.
    request
        What is done.
    null
        A file of other cells, in which the same is done: the shifts are tested against theirs.
    out
        Table of cells to write, .csv or .parquet.
    reading
        How the files are read.
    layer, pooling, batch_size, device
        As in `scmf.evaluation.embed_file.embed_to_file`; but the pooling of a ranking is ``cls`` where cells begin
        with ``<cls>`` and else the mean over genes, as in the official code.

    Raises
    ------
    ConfigError, ResourceError
        Options that do not go together; the output cannot be written.
    DataError
        Genes, states or cells cannot be used.
    """
    request.check()
    if out is not None:
        _try_table(out, [file] if null is None else [file, null])
    found = find_model(model)
    log.info("loading model and cells")
    network, tokenizer = load_run_model(found.folder)
    network = on_device(network, device)
    if pooling is None and isinstance(tokenizer, RankValueTokenizer) and getattr(network, "gives_gene_vectors", False):
        pooling = "cls" if tokenizer.special_tokens else "cell"
    settings = embedding_settings(found.folder, network, layer=layer, pooling=pooling, batch_size=batch_size)
    mine = _Model(found.folder, network, tokenizer, settings, reading or Reading())
    if request.fold is not None and isinstance(tokenizer, RankValueTokenizer):
        raise ConfigError(
            "--fold with a model that reads a ranking", wanted="no factor: the gene goes to the front of the ranking",
            where="--fold", fix="leave it out",
        )  # fmt: skip
    if tokenizer.is_stochastic and tokenizer.match_official:
        raise ConfigError(
            "a tokenizer with match_official that draws at random", where=found.folder,
            wanted="draws that depend on the cell alone: those of the official code depend on all cells before it",
            fix="take a model whose tokenizer has match_official: false",
        )  # fmt: skip
    cells = mine.load(file)
    other = None if null is None else mine.load(null)
    groups = _groups(request, tokenizer, cells)
    rows_of = request.states.rows(cells) if request.states else {}
    states = {state: _mean(mine, cells[rows], request) for state, rows in rows_of.items()}
    start = cells[rows_of[request.states.start]] if request.states else cells
    tested = _tested(mine, start, groups, request, states)
    compared = None if other is None else _tested(mine, other, groups, request, states, may_be_none=True)
    names = ["+".join(gene.name for gene in group) for group in groups]
    table = summary(tested.shifts, names, request.wanted, null=None if compared is None else compared.shifts)
    symbols = dict(zip(names, map(_symbols, groups), strict=True))
    table.insert(1, "symbol", [symbols[name] for name in table["perturbation"]])
    rows = tested.rows(names)
    if compared is not None:
        rows = pd.concat([rows.assign(cells="test"), compared.rows(names).assign(cells="other")], ignore_index=True)
    facts: dict[str, Any] = {
        "model": found.word, "perturbation": request.kind, "definition": tested.definition, "cells": start.n_obs,
        "embedding": {"layer": settings.embedding_layer, "pooling": settings.pooling,
                      "similarity": "mean cosine of the genes" if mine.measure.by_gene else "cosine of the cells"},
        "states": {state: min(len(which), request.max_cells or len(which)) for state, which in rows_of.items()},
        **tested.left_out(names),
    }  # fmt: skip
    if compared is not None:
        facts["null"] = {"file": str(null), "cells": compared.n_cells, **compared.left_out(names)}
    if tokenizer.is_stochastic:
        facts["redraw_cosine"] = _redrawn(mine, start[:REDRAWN])
        log.warning(
            "this tokenizer draws at random (ties, order): cells drawn twice have a cosine of "
            f"{facts['redraw_cosine']:.6f}; smaller movements say nothing"
        )
    if out is not None:
        with atomic_path(out) as part:
            if out.suffix == ".parquet":
                rows.to_parquet(part, index=False)
            else:  # which spreadsheets open, too
                said = {name: rows[name].map(csv_cell) for name in ("perturbation", "cell")}
                rows.assign(**said).to_csv(part, index=False)
        facts["file"] = str(out)
    return Perturbed(table, rows, facts)


def _try_table(out: Path, inputs: list[Path | str]) -> None:
    """See that the table of cells can be written."""
    try_file(out, option="--out", endings=(".csv", ".parquet"), inputs=inputs)
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "data", needed_for="tables in Parquet; .csv needs nothing")


def _groups(request: Request, tokenizer: Any, cells: LoadedCells) -> list[list[Gene]]:
    """The genes of each perturbation."""
    if request.every:
        return [[gene] for gene in every_gene(tokenizer, cells)]
    genes = named_genes(request.genes, tokenizer, cells)
    if not request.combine:
        return [[gene] for gene in genes]
    ranking = isinstance(tokenizer, RankValueTokenizer)
    if ranking and len(genes) + tokenizer.num_special_tokens_to_add() >= tokenizer.max_length:
        raise ConfigError(
            f"{len(genes)} genes together", wanted=f"fewer than the {tokenizer.max_length} tokens of a cell",
            where="--combine", fix="combine fewer genes",
        )  # fmt: skip
    return [genes]


def _symbols(group: list[Gene]) -> str:
    """Symbols of genes, in place of a missing one the name; empty where none has any."""
    return "+".join(gene.symbol or gene.name for gene in group) if any(gene.symbol for gene in group) else ""


def _mean(model: _Model, cells: LoadedCells, request: Request) -> np.ndarray:
    """Mean vector of the cells of a state (D,), of at most ``max_cells``."""
    vector: np.ndarray = model.embed(cells[sample(cells.n_obs, request.max_cells, seed=request.seed)]).mean(axis=0)
    return vector


def _redrawn(model: _Model, cells: LoadedCells) -> float:
    """Mean cosine of cells whose tokens were drawn twice."""
    return float(cosine(model.embed(cells), model.embed(cells, draw=1)).mean())


class _Tested(NamedTuple):
    """The shifts of some cells, and what was left out."""

    shifts: Shifts
    plan: Plan
    cell_names: np.ndarray
    definition: str

    @property
    def n_cells(self) -> int:
        """Cells that were there to be perturbed."""
        return len(self.cell_names)

    def rows(self, names: list[str]) -> pd.DataFrame:
        """One row for each perturbation and cell."""
        shifts = self.shifts
        columns = {"perturbation": np.array(names, object)[shifts.target_E], "cell": self.cell_names[shifts.cell_E]}
        table = pd.DataFrame({**columns, "cosine": shifts.cosine_E})
        for state, values in zip(shifts.states, shifts.shift_ES.T, strict=True):
            table[f"shift_to_{state}"] = values
        return table

    def left_out(self, names: list[str]) -> dict[str, dict[str, int]]:
        """Perturbation -> cells that lack a gene of it, and cells that have no other gene."""
        counts = {
            "cells_without_gene": self.plan.lacking_T, "cells_of_no_other_gene": self.plan.emptied_T,
            "cells_whose_gene_is_not_read": self.shifts.unread_T,
        }  # fmt: skip
        return {key: {names[t]: int(n_T[t]) for t in np.flatnonzero(n_T)} for key, n_T in counts.items()}


def _tested(
    model: _Model, cells: LoadedCells, groups: list[list[Gene]], request: Request, states: Mapping[str, np.ndarray],
    *, may_be_none: bool = False,
) -> _Tested:  # fmt: skip
    """Perturb cells and embed them; without a cell that can be perturbed an error, unless there may be none."""
    targets = Targets(tuple(tuple(gene.token for gene in group) for group in groups), every=request.every)
    tokenizer, kind = model.tokenizer, request.kind
    takes_all = request.every or (kind == "overexpress" and request.fold is None)
    if takes_all:
        cells = cells[sample(cells.n_obs, request.max_cells, seed=request.seed)]
    cells = through_orthologs(tokenizer, cells)
    tokens = tokens_for(model.network, tokenizer, cells)
    editor: Editor
    if isinstance(tokenizer, RankValueTokenizer):
        frame = Frame(tokenizer.max_length, *((1, 1) if model.specials else (0, 0)))
        by_gene, official = model.measure.by_gene, tokenizer.match_official
        editor = RankEditor(tokens, targets, kind, frame, by_gene=by_gene, match_official=official)
    else:
        editor = CountEditor(tokenizer, cells, tokens, targets, kind, fold=request.fold)
    plan = editor.plan()
    if request.max_cells is not None and not takes_all:
        plan = plan.limited(request.max_cells, seed=request.seed)
    if not len(plan.cell_E) and not may_be_none:
        raise DataError(
            f"none of {cells.n_obs:,} cells has the gene and another one", where=cells.facts.dataset,
            wanted="cells that express the genes to perturb",
            fix="name other genes; --perturbation overexpress takes cells without the gene too",
        )  # fmt: skip
    if not request.every and (absent := set(range(len(groups))) - set(plan.target_E.tolist())):
        called = ", ".join("+".join(gene.name for gene in groups[t]) for t in sorted(absent))
        log.warning(f"{cells.facts.dataset}: no cell can be perturbed for {called}, which is left out")
    shifts = measure(model.network, editor, plan, targets, model.measure, states=states)
    if not len(shifts.cell_E) and len(plan.cell_E) and not may_be_none:
        raise DataError(
            f"the model reads the genes to perturb in none of {cells.n_obs:,} cells: long cells are sampled or cut",
            wanted="cells in which it reads them", where=cells.facts.dataset, fix="name other genes, or other cells",
        )  # fmt: skip
    if unread := int(shifts.unread_T.sum()):
        log.warning(
            f"{cells.facts.dataset}: in {unread:,} of {len(plan.cell_E):,} edits the model does not read the gene "
            "(long cells are sampled or cut); they are left out"
        )
    return _Tested(shifts, plan, cells.obs_names.to_numpy(dtype=object), editor.definition)
