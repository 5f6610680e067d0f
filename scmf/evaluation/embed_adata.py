"""`scmf.embed`: the cells of an AnnData to vectors in ``obsm``, as `scmf embed` does with those of a file.

Lives here: from an AnnData to another. Lives elsewhere: the model and the checks (embedder), the pass over the cells
(embed_job), the same for files (embed_file).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from anndata import AnnData

from scmf.core.config.run import DataConfig, validate
from scmf.core.python_words import for_python
from scmf.data.loading.open_corpus import open_corpus
from scmf.data.stores.adata_added import check_obsm_key
from scmf.data.stores.adata_memory import IN_MEMORY, check_target, in_memory, put, target_of
from scmf.data.stores.canonical import Rounding
from scmf.evaluation.as_in_run import as_in_run
from scmf.evaluation.embed_job import PIECE
from scmf.evaluation.embed_pieces import Pieces
from scmf.evaluation.embedder import Embedder, usual_key
from scmf.models.embed import Precision
from scmf.models.published.names import find_model

log = logging.getLogger(__name__)


@for_python
def embed(
    adata: AnnData,
    model: Path | str,
    *,
    inplace: bool = False,
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
) -> AnnData:
    """Embed every cell of an AnnData.

    Parameters
    ----------
    adata
        Cells with raw counts: in memory, a view, or backed by a file (which is then read whole; `embed_to_file` and
        `scmf embed` read a file in pieces).
    inplace
        Add the vectors to ``adata`` itself instead of a copy.
    model, key, counts, gene_ids, counts_rounding, batch_key, layer, pooling, batch_size, device, precision, \
allow_low_coverage
        See `scmf.evaluation.embed_file.embed_to_file`.

    Returns
    -------
    AnnData
        A copy in memory, or ``adata``, with ``obsm[key]`` (``X_<recipe>`` when ``key`` is None) and, in
        ``uns["scmf"][key]``, a record of what made the vectors.

    Raises
    ------
    ConfigError
        No AnnData, no such model, or one that cannot be written to.
    DataError
        The cells cannot be used.
    """
    held = in_memory(adata)
    check_target(adata, inplace=inplace)
    if key is not None:
        check_obsm_key(key, where="--key")
    found = find_model(model)
    key = usual_key(found, key)
    check_obsm_key(key, where="--key")
    embedder = Embedder.load(
        found, layer=layer, pooling=pooling, batch_size=batch_size, device=device, precision=precision
    )
    keys = {"files": [IN_MEMORY], "counts": counts, "gene_ids": gene_ids, "counts_rounding": counts_rounding}
    keys |= as_in_run(held, found.folder, embedder.tokenizer, keys)
    opened = open_corpus(validate(DataConfig, keys, where="embed"), adata=held)
    with embedder.job(opened, batch_key=batch_key, allow_low_coverage=allow_low_coverage, piece=PIECE) as job:
        pieces = Pieces(len(job.starts) - 1, None)
        job.embed(pieces, range(pieces.n))
    result = target_of(adata, held, inplace=inplace)
    if put(result, key, np.concatenate(list(pieces.read())), record=embedder.record):
        log.warning(f"a new obsm[{key!r}] in place of the one that was there; another key keeps both")
    return result
