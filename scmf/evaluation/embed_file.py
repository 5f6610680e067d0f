"""Cells of files to vectors in a file, a few thousand cells at a time: the verb ``embed``.

Memory does not depend on the number of cells. Finished pieces lie in a hidden folder beside the output, from which a
stopped embedding goes on; processes with ``part`` share it, and the last one to finish writes the output.

Lives here: what is done in which order, parts and going on. Lives elsewhere: the pass over the cells (embed_job), the
pieces (embed_pieces), which file is written (embed_output), the model (embedder).
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.config.run import DataConfig, validate
from scmf.core.errors import ConfigError, ResourceError, ScmfError
from scmf.core.locks import one_writer
from scmf.data.stores.adata_added import Vectors, check_obsm_key
from scmf.data.stores.canonical import Rounding
from scmf.evaluation.as_in_run import as_in_run
from scmf.evaluation.embed_job import PIECE, EmbedJob, open_cells
from scmf.evaluation.embed_output import Output
from scmf.evaluation.embed_pieces import Pieces
from scmf.evaluation.embedder import Embedder, usual_key, usual_name
from scmf.evaluation.made_by import model_digest
from scmf.models.embed import Precision
from scmf.models.published.names import find_model

log = logging.getLogger(__name__)


def embed_to_file(
    file: Path | str,
    model: Path | str,
    *,
    output: Path | None = None,
    in_place: bool = False,
    vectors_only: bool = False,
    part: tuple[int, int] | None = None,
    key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    counts_rounding: Rounding = "error",
    batch_key: str | None = None,
    layer: int | None = None,
    pooling: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: Precision = "32-true",
    allow_low_coverage: bool = False,
) -> dict[str, Any]:
    """Write the embedding of every cell into ``obsm``: of a copy of the file, of the file itself, or of a small file.

    Parameters
    ----------
    file
        .h5ad file or zarr group with raw counts; with ``vectors_only`` also a folder, a pattern or an address.
    model
        Folder of a run or of a checkpoint, or a name; see `scmf.models.published.names.find_model`.
    output
        New file, or zarr group where the input is one; ``<file>.<recipe>.h5ad`` when None.
    in_place
        Add the vectors to ``file``.
    vectors_only
        Write an .h5ad file with cell ids and vectors alone; so it is for several files and for addresses.
    part
        ``(i, n)``: embed the i-th of n parts, from 1; the process that finishes last writes the output.
    key
        Key in ``obsm``; ``X_<recipe>`` when None. Vectors that the file has under it are replaced.
    counts, gene_ids, counts_rounding, allow_low_coverage
        As in the ``data`` section.
    batch_key
        Column of ``obs`` with the batch, for models whose embedding depends on it; that of the run when None.
    layer, pooling, batch_size
        As ``embedding_layer``, ``pooling`` and ``batch_size`` in the ``eval`` section; None: those of the run that made
        the model, else what its family was published with.
    device
        Where the network embeds; see `scmf.models.embed.on_device`.
    precision
        ``bf16-mixed`` computes in bfloat16 where PyTorch takes that to be safe.

    Returns
    -------
    dict
        ``file``, ``key``, ``cells``, ``dimensions``; with ``part`` also ``part``, and ``left``: cells that other parts
        have still to embed before there is a file.

    Raises
    ------
    ConfigError, ResourceError
        The output cannot be written, or is the input.
    DataError
        The cells cannot be used.
    """
    if part is not None and not 1 <= part[0] <= part[1]:
        raise ConfigError(
            f"part {part[0]} of {part[1]}",
            wanted="a part from 1 to the number of parts",
            where="part",
            fix="(1, 4), say",
        )
    target = Output.of(str(file), output, in_place=in_place, vectors_only=vectors_only)
    if key is not None:
        check_obsm_key(key, where="--key")
    if target.file is not None:
        target.try_it()  # before a model is fetched
    found = find_model(model)
    if target.file is None:
        target = target.named(usual_name(found))
        target.try_it()
    key = usual_key(found, key)
    check_obsm_key(key, where="--key")
    embedder = Embedder.load(
        found, layer=layer, pooling=pooling, batch_size=batch_size, device=device, precision=precision
    )
    keys = {"files": [str(file)], "counts": counts, "gene_ids": gene_ids, "counts_rounding": counts_rounding}
    keys |= _as_in_run(target, embedder, keys)
    opened = open_cells(validate(DataConfig, keys, where="embed"))
    parts = None if part is None else part[1]
    with embedder.job(
        opened, batch_key=batch_key, allow_low_coverage=allow_low_coverage, piece=PIECE, parts=parts or 1
    ) as job:
        target.say_replaced(key)
        asked = {"model": found.folder, "parts": parts}
        return _run(job, replace(target, record=embedder.record), key, part, facts=asked)


def _as_in_run(target: Output, embedder: Embedder, keys: dict[str, Any]) -> dict[str, Any]:
    """The matrix and the ids that the run has read, which all files have or none."""
    read = [as_in_run(path, embedder.model.folder, embedder.tokenizer, keys) for path in target.inputs]
    for path, one in zip(target.inputs, read, strict=True):
        if one != read[0]:
            lacks = sorted(set(read[0]) ^ set(one))
            raise ConfigError(
                f"files of which some have the {' and '.join(lacks)} of the run, others do not",
                wanted="files that are read in one way", where=path,
                fix=f"say how all are read: {', '.join('--' + name.replace('_', '-') for name in lacks)}",
            )  # fmt: skip
    return read[0] if read else {}


# --- the pass ---------------------------------------------------------------------------------------


def _run(
    job: EmbedJob, target: Output, key: str, part: tuple[int, int] | None, *, facts: dict[str, Any]
) -> dict[str, Any]:
    """Embed what is left to embed, and write the output when all is there."""
    assert target.file is not None
    sizes = np.diff(job.starts)
    n = len(sizes)
    folder = target.file.with_name(f".{target.file.name[:100]}.scmf-embed")
    pieces = Pieces(n, None if n == 1 and part is None else folder)
    if pieces.folder is not None:
        facts |= {"model": model_digest(facts["model"]), **job.facts}
    mine = range(n) if part is None else range(n * (part[0] - 1) // part[1], n * part[0] // part[1])
    answer = {"file": str(target.file), "key": key, "cells": job.corpus.n_cells}
    if part is not None:
        answer["part"] = f"{part[0]}/{part[1]}"
        pieces.open(facts, shared=True)
        done = pieces.done
        job.embed(pieces, [number for number in mine if number not in done])
        left = sorted(set(range(n)) - pieces.done)
        if left and folder.exists():
            return {**answer, "left": int(sizes[left].sum())}
        return {**answer, **_finished(job, target, key, pieces), "left": 0}
    with one_writer(folder, "embedding", error=ConfigError) if pieces.folder is not None else nullcontext():
        try:
            pieces.open(facts, shared=False)
            done = pieces.done
            job.embed(pieces, [number for number in mine if number not in done])
            _write(job, target, key, pieces)
        except BaseException as error:
            fails_again = isinstance(error, ScmfError) and not isinstance(error, ResourceError)
            if fails_again or not pieces.done:
                pieces.clear()  # there is nothing to go on from
            raise
        width = pieces.width
        pieces.clear()
    return {**answer, "dimensions": width}


def _write(job: EmbedJob, target: Output, key: str, pieces: Pieces) -> None:
    target.write(job.corpus, key, Vectors((job.corpus.n_cells, pieces.width), pieces.read))


def _finished(job: EmbedJob, target: Output, key: str, pieces: Pieces) -> dict[str, Any]:
    """Write the output of all parts, unless the process of another part that ended at the same time does."""
    assert pieces.folder is not None
    try:
        with one_writer(pieces.folder, "writing the vectors of all parts", error=_BusyError):
            width = pieces.width if pieces.are_all_done else None
            if width is not None:
                _write(job, target, key, pieces)
            pieces.clear()
    except _BusyError:
        return {}
    return {} if width is None else {"dimensions": width}


class _BusyError(ConfigError):
    """Another process writes the output."""
