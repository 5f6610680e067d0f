"""Options of the gene-embedding strategy: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .continuous_options import ContinuousOptions


@dataclass(frozen=True)
class GeneEmbeddingOptions(ContinuousOptions):
    """Options of ``gene_embedding``: those of ``continuous``, and a table of gene vectors."""

    vectors: str = "fit"
    """Pretrained gene vectors: a card, or a .npz, .h5 or .parquet file keyed by gene; ``fit``: from the cells."""
    dimensions: int = field(default=64, metadata={"ge": 1})
    """Width of the vectors with ``vectors: fit``."""
    missing_vectors: Literal["drop", "mean", "error"] = "drop"
    """Genes without a vector: no token, the mean of the vectors that were found, or an error."""
