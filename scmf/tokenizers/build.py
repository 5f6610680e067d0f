"""A tokenizer for a configuration, and the tokens of cells in memory.

Lives here: fitted on cells, of a vocabulary card or saved; cells to ragged tokens with the tensors of each cell; what
a model is told about its tokenizer. Lives elsewhere: the strategies (tokenizers), cells on disk
(scmf.training.stream_data).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import manifest, registry
from scmf.core.config.renamed import load_tokenizer
from scmf.core.config.run import RunConfig, TokenizerConfig
from scmf.core.errors import ConfigError, DataError, ScmfError, from_value_error
from scmf.data.genes.align_vectors import vectors_for
from scmf.data.genes.names import OtherNames
from scmf.data.genes.vocabulary import load_vocabulary
from scmf.data.loading.facts import LoadedCells
from scmf.data.preprocess.gene_aligner import AlignedGenes, GeneAligner
from scmf.data.preprocess.hvg import highly_variable_genes
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.preprocess.steps import LibrarySize, Log1p
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.missing import known_text
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import PerEpochTokens
from scmf.tokenizers.continuous_tables import UNKNOWN_ASSAY
from scmf.tokenizers.species import genes_of, keep_orthologs, through_orthologs

log = logging.getLogger(__name__)

BATCH_IDS = "batch_ids"
"""Tensor with the batch (study, donor, assay) of a cell, for models that use it."""


def tokenizer_shape(settings: TokenizerConfig) -> dict[str, Any]:
    """What every tokenizer of a configuration is made with, beside its tables."""
    return {
        "max_length": settings.max_length,
        "special_tokens": settings.special_tokens,
        "match_official": settings.match_official,
        **settings.all_options,
    }


def given_tokenizer(settings: TokenizerConfig) -> Any:
    """The tokenizer of a vocabulary card, or the one saved in a folder (which must have the shape that is asked for).

    Raises
    ------
    ModelError
        The saved one is not as it was saved.
    ConfigError
        The saved one has another shape, or the strategy needs tables that the vocabulary does not have.
    """
    strategy, shape = registry.resolve("tokenizers", settings.strategy), tokenizer_shape(settings)
    if (Path(settings.vocabulary) / "tokenizer_config.json").is_file():
        manifest.verify(Path(settings.vocabulary), fix="copy the folder again from where it is whole")
        saved = load_tokenizer(strategy, settings.vocabulary)
        held = saved.options
        found = {name: held[name] if name in held else getattr(saved, name) for name in shape if name != "vectors"}
        wanted = {name: value for name, value in shape.items() if name != "vectors"}
        if found != wanted:
            raise ConfigError(
                ", ".join(f"{name} {value}" for name, value in found.items() if value != wanted[name]),
                wanted=", ".join(f"{name} {value}" for name, value in wanted.items() if found[name] != value),
                where=settings.vocabulary,
                fix="set the keys of `tokenizer` to those of the saved tokenizer",
            )
        return saved
    tables = load_vocabulary(settings.vocabulary)
    shape = with_vectors(shape, tables.genes)
    try:
        return strategy.from_tables(tables.token_ids, tables.medians, tables.aliases, **shape)
    except ValueError as error:
        said = from_value_error(ConfigError, error)
        raise ConfigError(
            said.found,
            wanted=f"a vocabulary for tokenizer {settings.strategy!r}: {said.wanted or 'all that it needs'}",
            where=f"vocabulary {settings.vocabulary}",
            fix="choose another vocabulary (`scmf data ls`), or the strategy that this one was made for",
        ) from error


def fitted_tokenizer(config: RunConfig, cells: LoadedCells) -> Any:
    """A tokenizer whose vocabulary comes from the training cells."""
    settings = config.tokenizer
    strategy, shape = registry.resolve("tokenizers", settings.strategy), tokenizer_shape(settings)
    training = cells if cells.split is None else cells[cells.rows("train")]
    chosen, totals = training, training.total_counts
    if settings.top_genes is not None:
        rounding = config.data.counts_rounding
        corpus = Corpus([MemoryStore(training.adata, counts="X", gene_ids="var_names", rounding=rounding)])
        chosen = training[:, most_variable(corpus, settings.top_genes, keep=None, aligner=None)]
        totals = np.asarray(training.X.sum(axis=1)).ravel() if totals is None else totals
    try:
        shape = with_vectors(shape, chosen.var_names.tolist())
        made = strategy.fit(chosen.X, chosen.var_names, min_cells=settings.min_cells, n_counts=totals, **shape)
        made = with_names(made, cells.names, strategy, shape)
        learn_columns(made, obs_columns(made, training.obs))
        return made
    except ValueError as error:
        raise _naming_cells(error, training) from error


def with_names(made: Any, names: OtherNames | None, strategy: Any, shape: Mapping[str, Any]) -> Any:
    """A fitted tokenizer with the other names of its genes, so that it knows the files that it was fitted on."""
    if names is None:
        return made
    if names.aliases:
        vectors = {}
        if "vectors" in shape:
            genes = genes_of(made)
            vectors = {"vectors": (genes, made.vectors[[made.get_vocab()[gene] for gene in genes]])}
        medians = getattr(made, "medians", {})
        made = strategy.from_tables(made.get_vocab(), medians, names.aliases, **{**shape, **vectors})
    keep_orthologs(made, names)
    return made


def most_variable(corpus: Corpus, n_genes: int, *, keep: np.ndarray | None, aligner: GeneAligner | None) -> list[str]:
    """Names of the most variable genes of the training cells ``keep``, as `scmf data hvg` chooses them (``seurat``).

    With an aligner they are genes of it, and counts of other genes do not take part, as in cells held in memory.
    """
    genes = dict.fromkeys(gene for store in corpus.stores for gene in store.genes)
    steps: list[Any] = [LibrarySize(), Log1p()]
    if aligner is not None:
        steps.insert(0, AlignedGenes(aligner))
        columns = [aligner.columns(store.genes, where=store.uri).target for store in corpus.stores]
        genes = dict.fromkeys(aligner.genes[at] for at in np.unique(np.concatenate(columns)) if at >= 0)
    found = highly_variable_genes(
        corpus, keep=keep, n_top_genes=n_genes, genes=tuple(genes), normalize=Pipeline(steps)
    )  # fmt: skip
    if why := found.why_not(n_genes):
        log.warning(f"tokenizer.top_genes: {why}")
    return list(found.selected)


def with_vectors(shape: dict[str, Any], genes: Sequence[str]) -> dict[str, Any]:
    """The shape with the gene vectors that ``vectors`` names, of these genes; ``fit`` is left to the tokenizer."""
    source = shape.get("vectors")
    if source is None or source == "fit":
        return shape
    found, _ = vectors_for(source, genes)
    return {**shape, "vectors": (found.genes, found.vectors)}


def tokenize(tokenizer: Any, cells: LoadedCells, *, draw: int = 0, batch_names: Sequence[str] | None = None) -> Ragged:
    """Tokens of all cells.

    Parameters
    ----------
    tokenizer
        Any tokenizer with ``encode_cells``.
    cells
        As `scmf.data.loading.load.load_cells` returns them.
    draw
        Number of the draw (the epoch), for tokenizers that draw.
    batch_names
        Names that ``batch_ids`` counts; default: those of the cells, sorted. Cells without a batch column have none,
        cells whose batch is missing have -1, see `refuse_missing_batches`.

    Raises
    ------
    DataError
        For anything wrong with the cells; an empty cell is named.
    """
    cells = through_orthologs(tokenizer, cells)
    try:
        encoded = tokenizer.encode_cells(cells.X, cells.var_names, n_counts=cells.total_counts, draw=draw)
        tensors = dict(tokenizer.cell_tensors(obs_columns(tokenizer, cells.obs)))
    except ValueError as error:
        raise _naming_cells(error, cells) from error
    if (key := cells.facts.batch_key) and key in cells.obs:
        tensors[BATCH_IDS] = batch_codes(known_text(cells.obs[key]), batch_names)
    return ragged_of(tokenizer, encoded, after=tensors)


_ROWS = re.compile(r"\brows? (\d+(?:, \d+)*)")


def _naming_cells(problem: ValueError, cells: LoadedCells) -> ScmfError:
    """The error of a tokenizer, which knows rows, with the ids of the cells and with what a command can do."""
    error, names = from_value_error(DataError, problem, where=cells.facts.dataset), cells.obs_names
    found = _ROWS.search(str(error.where))
    rows = [int(row) for row in found[1].split(", ")] if found else []
    if not rows or max(rows) >= len(names):
        return error
    named = ", ".join(repr(str(names[row])) for row in rows)
    fix = error.fix
    if fix is not None and "empty='keep'" in fix:
        fix = "remove these cells from the file; data.filter.min_genes in a YAML file leaves out those without genes"
    return type(error)(error.found, wanted=error.wanted, where=f"{error.where}: cells {named}", fix=fix)


def ragged_of(
    tokenizer: Any,
    encoded: Any,
    *,
    before: Mapping[str, np.ndarray] | None = None,
    after: Mapping[str, np.ndarray] | None = None,
) -> Ragged:
    """What a tokenizer's ``encode_cells`` returned as rows that can be selected and padded.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    encoded
        Its ``EncodedCells``, a type that travels in checkpoints and so knows nothing of scmf.
    before, after
        Arrays with one entry a cell that those of the tokenizer replace, and that replace them.
    """
    tensors = {**(before or {}), **encoded.cells, **(after or {})}
    return Ragged(encoded.offsets, encoded.columns, tensors, tokenizer.pad_values)


def training_tokens(tokenizer: Any, cells: LoadedCells, tokens: Ragged, rows: np.ndarray) -> Ragged | PerEpochTokens:
    """The cells ``rows`` for training: drawn anew each epoch where the tokenizer draws, else as they are."""
    first = tokens.select(rows)
    if not tokenizer.is_stochastic:
        return first
    chosen = through_orthologs(tokenizer, cells[rows])

    def draw(epoch: int) -> Ragged:
        if epoch == 0:
            return first
        encoded = tokenizer.encode_cells(chosen.X, chosen.var_names, n_counts=chosen.total_counts, draw=epoch)
        return ragged_of(tokenizer, encoded, before=first.cell_tensors)

    return PerEpochTokens(draw)


def obs_columns(tokenizer: Any, obs: Any) -> Mapping[str, Any]:
    """The columns of ``obs`` (a data frame) that a tokenizer reads; those that are not there are left out.

    A missing assay is ``unknown``, as tokenizers call what they do not know.
    """
    return {name: known_text(obs[name], missing=UNKNOWN_ASSAY) for name in tokenizer.obs_columns if name in obs}


def learn_columns(tokenizer: Any, obs: Mapping[str, Any]) -> None:
    """Let a tokenizer that reads columns of ``obs`` (assays) take over their values, unless it knows some already."""
    if tokenizer.obs_columns and tokenizer.n_assays <= 1:
        tokenizer.fit_obs(obs)


def batch_names_of(column: Any) -> list[str]:
    """Batches of a column of ``obs``, sorted: what ``batch_ids`` counts. A missing value is no batch."""
    return sorted(set(known_text(column).tolist()) - {""})


def batch_codes(names: np.ndarray, known: Sequence[str] | None = None) -> np.ndarray:
    """Batches as numbers, int64 (N,); -1 for the empty text, a missing batch.

    Raises
    ------
    DataError
        A batch that a trained model does not know.
    """
    order = sorted(set(names.tolist()) - {""}) if known is None else list(known)
    number = {"": -1} | {name: i for i, name in enumerate(order)}
    if strangers := sorted(set(names.tolist()) - set(number)):
        raise DataError(
            f"batch {strangers[0]!r}" + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""),
            wanted=f"one of {', '.join(order)}",
            where="data.batch_key",
            fix="give cells of the batches that the model was trained on",
        )
    return np.array([number[name] for name in names.tolist()], np.int64)


def refuse_missing_batches(codes: np.ndarray, *, key: str | None, where: str) -> None:
    """Raise `DataError` where a model that reads the batch would read a missing one (-1 of `batch_codes`, (N,))."""
    if n := int((codes < 0).sum()):
        first = int(np.argmax(codes < 0))
        raise DataError(
            f"{n:,} of {len(codes):,} cells have no batch in {key!r}, the first is number {first:,}",
            wanted="the batch of every cell, which this model reads", where=where,
            fix="name their batch, remove these cells, or train a model without batch labels (model.options)",
        )  # fmt: skip
