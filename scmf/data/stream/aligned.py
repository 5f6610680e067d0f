"""Counts of stores with different genes as rows over one panel, preprocessed on the way.

Lives here: the encoder. Lives elsewhere: the panel (data.panel), the steps (data.preprocess), tokens
(scmf.training.streaming).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scmf.data.preprocess.normalise import Pipeline
from scmf.data.preprocess.panel import Panel
from scmf.data.stores.ragged import Encoded, row_sums
from scmf.data.stores.store import CountBlock


class AlignedCounts:
    """An encoder of the stream: columns ``indices`` (int32, of the panel) and ``data``, and ``n_counts`` of each cell.

    Parameters
    ----------
    panel
        Genes of the rows; genes of a store that are not in it are dropped. None keeps the genes of the stores, which
        must then be the same.
    pipeline
        Fitted steps (library size, log1p, ...), applied after the alignment; their genes must stay those of the panel.
    """

    fill: Mapping[str, float] = {"indices": -1, "data": 0.0}

    def __init__(self, panel: Panel | None = None, *, pipeline: Pipeline | None = None) -> None:
        self.panel, self.pipeline = panel, pipeline

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Encoded:
        """See `scmf.data.stores.ragged.Encoder`."""
        if self.panel is None:
            totals = row_sums(counts.indptr, counts.data)
        else:
            aligned = self.panel.align(counts, self.panel.columns(genes), in_place=True)
            counts, genes, totals = aligned.counts, self.panel.genes, aligned.n_counts_B
        if self.pipeline is not None:
            counts, _ = self.pipeline.apply(counts, genes)
        columns = {"indices": counts.indices.astype(np.int32, copy=False), "data": counts.data}
        return Encoded(counts.indptr, columns, {"n_counts": totals})
