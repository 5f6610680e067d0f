"""Cells of files to vectors in a file, a few thousand cells at a time: the verb ``embed``.

Memory does not depend on the number of cells. Finished pieces lie in a hidden folder beside the output, from which a
stopped embedding goes on; processes with ``part`` share it, and the last one to finish writes the output.

Lives here: what is done in which order, parts and going on. Lives elsewhere: the pass over the cells (embed_job), the
pieces (embed_pieces), which file is written (embed_output).
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import manifest
from scmf.core.config.run import DataConfig, validate
from scmf.core.errors import ConfigError, ResourceError, ScmfError
from scmf.core.files import sha256_file, sha256_json
from scmf.core.locks import one_writer
from scmf.data.stores.adata_added import Vectors, check_obsm_key
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.cell_ids import store_marks
from scmf.evaluation.as_in_run import as_in_run, embedding_settings
from scmf.evaluation.embed_job import PIECE, EmbedJob, cell_tensors, open_cells
from scmf.evaluation.embed_output import Output
from scmf.evaluation.embed_pieces import Pieces
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import Precision, on_device
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.coverage import tell_known_share_of_stores
from scmf.training.stream_data import with_orthologs

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
    target = Output.of(str(file), output, in_place=in_place, vectors_only=vectors_only)
    if key is not None:
        check_obsm_key(key, where="--key")
    if target.file is not None:
        target.try_it()  # before a model is fetched
    found = find_model(model)
    recipe = found.recipe or _recipe_name(found.folder)
    if target.file is None:
        target = target.named(recipe)
        target.try_it()
    key = f"X_{recipe}" if key is None else key
    check_obsm_key(key, where="--key")
    log.info("loading the model")
    network, tokenizer = load_run_model(found.folder)
    network = on_device(network, device)
    settings = embedding_settings(found.folder, network, layer=layer, pooling=pooling, batch_size=batch_size)
    keys = {"files": [str(file)], "counts": counts, "gene_ids": gene_ids, "counts_rounding": counts_rounding}
    if len(target.inputs) == 1:
        keys |= as_in_run(target.inputs[0], found.folder, tokenizer, keys)
    opened = with_orthologs(open_cells(validate(DataConfig, keys, where="embed")), tokenizer)
    corpus = opened.corpus
    try:
        store_marks(corpus)  # refuses ids that are there twice
        target.say_replaced(key)
        tell_known_share_of_stores(tokenizer, corpus, opened.aligner, allow=allow_low_coverage)
        tensors = cell_tensors(corpus, network, tokenizer, found.folder, batch_key)
        size = PIECE if part is None else min(PIECE, -(-corpus.n_cells // part[1]))
        job = EmbedJob(corpus, opened.aligner, network, tokenizer, settings, precision, tensors, size)
        asked = {"model": found.folder, "parts": None if part is None else part[1]}
        return _run(job, target, key, part, facts=asked)
    finally:
        corpus.close()


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
        facts |= {"model": _digest(facts["model"]), **job.facts}
    mine = range(n) if part is None else range(n * (part[0] - 1) // part[1], n * part[0] // part[1])
    answer = {"file": str(target.file), "key": key, "cells": job.corpus.n_cells}
    if part is not None:
        answer["part"] = f"{part[0]}/{part[1]}"
        pieces.open(facts, shared=True)
        job.embed(pieces, [number for number in mine if number not in pieces.done])
        left = sorted(set(range(n)) - pieces.done)
        if left and folder.exists():
            return {**answer, "left": int(sizes[left].sum())}
        return {**answer, **_finished(job, target, key, pieces), "left": 0}
    with one_writer(folder, "embedding", error=ConfigError) if pieces.folder is not None else nullcontext():
        try:
            pieces.open(facts, shared=False)
            job.embed(pieces, [number for number in mine if number not in pieces.done])
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


class _BusyError(ScmfError):
    """Another process writes the output."""


def _digest(model: Path) -> str:
    """Of the weights and all that is saved with them."""
    folder = RunFolder.weights_in(model)
    held = manifest.read(folder)
    if held is not None:
        return sha256_json(held["files"])
    return sha256_json({path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()})


def _recipe_name(model: Path) -> str:
    """Name of the recipe a run was made with, else the name of the folder."""
    run = RunFolder.find(model)
    return (model.resolve().name if run is None else Path(str(run.fact("recipe"))).name) or "model"
