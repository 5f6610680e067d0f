"""Tokens of a whole corpus on disk, made once: later epochs read them ten times faster than counts.

The cache is a folder of token datasets in the layout of Hugging Face datasets, a million cells each, so that an
interrupted run resumes with the first part that is missing. Row i of the parts in order is cell i of the corpus.

Lives here: making and finding the cache, one dataset for other programs. Lives elsewhere: the layout (data.tokens),
reading it (data.stores.token_store).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scmf.core import progress
from scmf.core.errors import DataError
from scmf.core.files import sha256_json, write_json
from scmf.core.yaml import load_yaml
from scmf.data.loading.open_corpus import OpenedCorpus, open_token_folders
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.ragged import Encoder
from scmf.data.stream.reader import in_order
from scmf.data.tokens.arrow import TokenDatasetWriter

log = logging.getLogger(__name__)

_CELLS_PER_PART = 1_000_000


def cached_tokens(
    opened: OpenedCorpus, encoder: Encoder, folder: Path, *, made_by: str, cells_per_part: int = _CELLS_PER_PART
) -> OpenedCorpus:
    """The same cells as tokens, made where they are not there yet.

    Parameters
    ----------
    opened
        Cells; those that pass no filter or are of no part that is used become empty rows.
    encoder
        What makes the tokens.
    folder
        The cache.
    made_by
        Digest of all that decides the tokens of a cell beside the cell.
    cells_per_part
        Cells of a part.

    Raises
    ------
    DataError
        The folder holds tokens of other cells or of another tokenizer.
    """
    corpus = opened.corpus
    made_of = sha256_json([corpus.fingerprint, dict(opened.facts.removed), made_by, cells_per_part])
    key = folder / "cache.json"
    if key.is_file():
        if (found := load_yaml(key)["made_of"]) != made_of:
            raise DataError(
                f"tokens of other cells or another tokenizer ({found[:12]})",
                wanted=made_of[:12],
                where=folder,
                fix="give data.stream.cache_tokens another folder, or remove this one",
            )
    else:
        write_json(key, {"made_of": made_of, "dataset": opened.facts.dataset, "n_cells": corpus.n_cells})
    starts = range(0, corpus.n_cells, cells_per_part)
    missing = [start for start in starts if not (folder / _name(start // cells_per_part)).is_dir()]
    if missing:
        log.info(f"tokenizing {min(len(missing) * cells_per_part, corpus.n_cells):,} cells into {folder}")
        done = max(corpus.n_cells - len(missing) * cells_per_part, 0)
        with progress.bar("tokenizing", corpus.n_cells, unit="cells", done=done) as bar:
            for start in missing:
                _write_part(opened, encoder, folder, start, cells_per_part, bar)
    tokens = Corpus(open_token_folders(folder))
    if tokens.n_cells != corpus.n_cells:
        raise DataError(
            f"{tokens.n_cells:,} cells",
            wanted=f"{corpus.n_cells:,}",
            where=folder,
            fix="remove the folder; it is made anew",
        )
    return replace(opened, corpus=tokens, described_by=corpus)


def tokenize_to(
    opened: OpenedCorpus, encoder: Encoder, path: Path, *, columns: Sequence[str] = (), overwrite: bool = False
    ) -> int:  # fmt: skip
    """Write the tokens of all cells that pass the filters as one dataset, as the official Geneformer reads it.

    Parameters
    ----------
    opened
        Cells.
    encoder
        What makes the tokens.
    path
        The folder to make; it takes its name when all is written.
    columns
        Columns of ``obs`` to keep beside ``input_ids`` and ``length``.
    overwrite
        Replace a folder of that name.

    Returns
    -------
    int
        Cells written.
    """
    corpus = opened.corpus
    obs = corpus.obs(list(columns)) if columns else None
    written = 0
    with (
        TokenDatasetWriter(path, overwrite=overwrite) as writer,
        progress.bar("tokenizing", corpus.n_cells, unit="cells") as bar,
    ):
        for batch in in_order(corpus, encoder, opened.passed):
            more = {} if obs is None else {name: obs[name].iloc[batch.cells] for name in columns}
            writer.add(batch.columns["input_ids"], batch.offsets, more)
            written += len(batch.cells)
            bar.advance(len(batch.cells))
    return written


def _write_part(opened: OpenedCorpus, encoder: Encoder, folder: Path, start: int, size: int, bar: progress.Bar) -> None:
    """One part; cells that do not take part are rows without tokens."""
    corpus = opened.corpus
    stop = min(start + size, corpus.n_cells)
    keep = np.zeros(corpus.n_cells, bool)
    keep[start:stop] = True if opened.passed is None else opened.passed[start:stop]
    at = start
    with TokenDatasetWriter(folder / _name(start // size)) as writer:
        for batch in in_order(corpus, encoder, keep) if keep.any() else ():
            lengths = np.zeros(int(batch.cells[-1]) + 1 - at, np.int64)
            lengths[batch.cells - at] = batch.lengths
            writer.add(batch.columns["input_ids"], np.concatenate([[0], np.cumsum(lengths)]))
            bar.advance(len(lengths))
            at = int(batch.cells[-1]) + 1
        if at < stop:
            writer.add(np.empty(0, np.int16), np.zeros(stop - at + 1, np.int64))


def _name(number: int) -> str:
    return f"part-{number:05d}"
