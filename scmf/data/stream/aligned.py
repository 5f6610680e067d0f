"""Counts of stores with different genes as rows over one aligner, preprocessed on the way.

Lives here: the encoder. Lives elsewhere: the aligner (preprocess.gene_aligner), the steps (preprocess.steps),
tokens (scmf.training.stream_data).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.stores.ragged import Ragged, row_sums
from scmf.data.stores.store import CountBlock


class AlignedCounts:
    """An encoder of the stream: columns ``indices`` (int32, of the aligner), ``data``, ``n_counts`` of each cell.

    Parameters
    ----------
    aligner
        Genes of the rows; genes of a store that are not in it are dropped. None keeps the genes of the stores, which
        must then be the same.
    pipeline
        Fitted steps (library size, log1p, ...), applied after the alignment; their genes must stay those of the
        aligner.
    """

    pad_values: Mapping[str, float] = {"indices": -1, "data": 0.0}

    def __init__(self, aligner: GeneAligner | None = None, *, pipeline: Pipeline | None = None) -> None:
        self.aligner, self.pipeline = aligner, pipeline

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Ragged:
        """See `scmf.data.stores.ragged.Encoder`."""
        if self.aligner is None:
            totals = row_sums(counts.indptr, counts.data)
        else:
            aligned = self.aligner.align(counts, self.aligner.columns(genes), in_place=True)
            counts, genes, totals = aligned.counts, self.aligner.genes, aligned.n_counts_B
        if self.pipeline is not None:
            counts, _ = self.pipeline.apply(counts, genes)
        columns = {"indices": counts.indices.astype(np.int32, copy=False), "data": counts.data}
        return Ragged(counts.indptr, columns, {"n_counts": totals}, self.pad_values)
