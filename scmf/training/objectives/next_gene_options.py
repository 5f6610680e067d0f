"""Options of next-gene prediction: keys, defaults, ranges. Only the standard library: read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NextGeneOptions:
    """Options of ``next_gene_prediction`` (TranscriptFormer, pretraining)."""

    gene_loss_weight: float = field(default=1.0, metadata={"ge": 0})
    """Weight of the cross entropy of the next gene beside the loss of its count."""
    shuffle: bool = False
    """Put the genes of each cell into a random order in every batch (official ``shuffle_expressed_each_batch``)."""
