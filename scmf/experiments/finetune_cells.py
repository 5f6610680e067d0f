"""The cells of a fine-tuning: loaded, labels found, split, tokenized by the tokenizer of the base model.

Lives here: `finetune_cells`. Lives elsewhere: loading (data.loading), making a split (data.splits), which labels are
learned (training.finetune).
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.config.recipe import Recipe
from scmf.core.errors import ConfigError, DataError
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.labels import CellLabels
from scmf.data.loading.load import load_cells
from scmf.data.splits.groups import COLUMNS, ObsColumns
from scmf.data.splits.make import make_split
from scmf.data.splits.read import SPLITS
from scmf.data.splits.split import Split
from scmf.data.stores.missing import is_missing
from scmf.evaluation.submissions.model import tokens_for
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.coverage import tell_known_share
from scmf.tokenizers.species import keep_orthologs
from scmf.training.data import Prepared

log = logging.getLogger(__name__)

FRACTIONS = (0.8, 0.1, 0.1)
"""Train, valid and test, where a split is made."""


def finetune_cells(
    recipe: Recipe, network: Any, tokenizer: Any, run: RunFolder, *, split_key: str | None
) -> tuple[Recipe, Prepared, Split | None]:
    """Load the cells of a recipe for fine-tuning.

    Parameters
    ----------
    recipe
        Its section ``data``.
    network, tokenizer
        The base model, which reads the batch of a cell or does not.
    run
        Where a split that is made is to be kept.
    split_key
        Column whose values lie whole in train, valid or test, where ``data.split`` names no split.

    Returns
    -------
    tuple
        The recipe with label column and split named, its cells, and the split where one was made.

    Raises
    ------
    ConfigError
        Cells that are streamed, a split that is named and one that is to be made, or a card without labels.
    DataError
        No column holds labels, or the cells cannot be split.
    EvaluationError
        Nothing can be learned: no label, or a single one.
    """
    data = recipe.config.data
    if data.streamed:
        raise ConfigError(
            "cells that are streamed", wanted="cells in memory", where="data.stream, data.census, data.tokens",
            fix="name files or a dataset; `scmf data convert` makes one store of the cells that you want",
        )  # fmt: skip
    if data.split is not None and split_key is not None:
        raise ConfigError(
            f"--split-key {split_key} and data.split {data.split}", wanted="one of them", where="--split-key",
            fix="leave one out",
        )  # fmt: skip
    log.info("loading cells")
    cells = load_cells(data)
    label_key = cells.facts.label_key or _label_column(cells)
    cells = replace(cells, facts=replace(cells.facts, label_key=label_key))
    changes: dict[str, Any] = {"label_key": label_key}
    made: Split | None = None
    if cells.split is None:
        cells, made = _split(cells, run, key=split_key, seed=recipe.config.training.seed)
        changes["split"] = str(run.split)
    truth = CellLabels.of(cells)
    if not len(truth.rows("train")):
        raise DataError(
            "no labeled cell in split 'train'", wanted="labeled training cells", where="data.split",
            fix="choose another split, or another label column",
        )  # fmt: skip
    truth.check_classes()
    keep_orthologs(tokenizer, cells.names)
    tell_known_share(tokenizer, cells, allow=data.allow_low_coverage)
    log.info(f"tokenizing {cells.n_obs:,} cells")
    prepared = Prepared(cells, tokenizer, tokens_for(network, tokenizer, cells))
    config = recipe.config.model_copy(update={"data": data.model_copy(update=changes)})
    return replace(recipe, config=config), prepared, made


def _label_column(cells: LoadedCells) -> str:
    columns = [str(column) for column in cells.obs.columns]
    usual = [column for column in COLUMNS["cell_type"] if column in columns]
    if len(usual) == 1:
        log.info(f"labels: column {usual[0]!r} of obs")
        return usual[0]
    raise DataError(
        f"columns {', '.join(usual)}" if usual else "no column that is usually called so",
        wanted="one column of obs with the labels to learn", where=cells.facts.dataset,
        fix=f"--label-key COLUMN, one of {', '.join(columns)}" if columns else "add the labels to obs",
    )  # fmt: skip


def _split(cells: LoadedCells, run: RunFolder, *, key: str | None, seed: int) -> tuple[LoadedCells, Split]:
    """The cells with a split that is made, and the split, which the run is to keep."""
    labels = cells.facts.label_key
    assert labels is not None
    even = None if is_missing(cells.obs[labels]).any() else labels
    if key is None:
        columns = ObsColumns(cells.adata, keys=cells.facts.keys).columns
        donors = [column for column in COLUMNS["donor"] if column in columns]
        log.warning(
            "cells are drawn one by one into train, valid and test: cells of one donor lie in several of them, and "
            "scores come out too good; " + (f"--split-key {donors[0]} keeps donors whole" if donors else
            "--split-key COLUMN keeps the values of a column whole, such as donors")
        )  # fmt: skip
        made = make_split(cells.adata, strategy="random", fractions=FRACTIONS, stratify_by=even, seed=seed)
    else:
        try:
            made = make_split(
                cells.adata, by=key, fractions=FRACTIONS, stratify_by=even, seed=seed, keys=cells.facts.keys
            )
        except DataError as error:
            raise DataError(
                error.found, wanted=error.wanted, where=error.where,
                fix=f"another --split-key; or `scmf data split CELLS --by {key}` with the parts that you want, then "
                "--split FILE",
            ) from error  # fmt: skip
    log.info(made.description)
    facts = replace(cells.facts, split=str(run.split), split_sha256=_sum(made))
    return replace(cells, split=np.array(SPLITS)[made.codes], facts=facts), made


def _sum(made: Split) -> str:
    """The checksum of the file of a split, before it is written."""
    with tempfile.TemporaryDirectory(prefix="scmf-split-") as folder:
        return made.write(Path(folder) / "split.tsv")
