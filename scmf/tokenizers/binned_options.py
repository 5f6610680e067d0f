"""Options of the binned strategy: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class BinnedOptions:
    """Options of ``binned`` (scGPT)."""

    n_bins: int = field(default=51, metadata={"ge": 0, "le": 32768})
    """Values are digits 0 (not expressed) to ``n_bins - 1``; with 0 bins values are given as they are."""
    include_zero_genes: bool = False
    """Give all genes of the vocabulary that the cells have, not only those with a count."""
    cls_value: Literal["pad", "zero"] = "pad"
    """Value at ``<cls>``: the pad value (pretraining, embedding) or 0 (fine-tuning)."""
    pad_value: float = -2.0
    """Value at padding."""
    mask_value: float = -1.0
    """Value at a position whose value is to be predicted."""
    long_cells: Literal["sample", "first"] = "sample"
    """Of a cell with more genes than fit keep a random sample, or those with the lowest token ids (``match_official``:
    those of the first columns)."""
    seed: int = field(default=0, metadata={"ge": 0, "lt": 2**32})
    """Seed of the digits of tied values and of the genes kept of a long cell."""

    def __post_init__(self) -> None:
        if self.n_bins == 1:
            raise ValueError("n_bins must be 0, for values as they are, or at least 2")
