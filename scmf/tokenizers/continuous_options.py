"""Options of the continuous strategy: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ContinuousOptions:
    """Options of ``continuous`` (scFoundation and TranscriptFormer)."""

    transform: Literal["log1p_10k", "clipped_counts", "as_given"] = "log1p_10k"
    """``log1p_10k``: ln(1 + count / total x 10,000); ``clipped_counts``: up to ``clip``; ``as_given``: values."""
    target_sum: float | None = field(default=None, metadata={"gt": 0})
    """Totals are brought to this; None: 10,000 with ``log1p_10k``, counts as they are with ``clipped_counts``."""
    clip: float = field(default=30.0, metadata={"gt": 0})
    """Largest count with ``clipped_counts``."""
    depth_tokens: bool = False
    """Append the tokens T (depth to reach) and S (depth of the cell) of scFoundation."""
    target_depth: str = field(default="t4", metadata={"pattern": r"^[tfa]-?[0-9.]+(e-?[0-9]+)?$"})
    """T: ``t<x>`` is x, ``f<x>`` log10(total x x), ``a<x>`` log10(total) + x."""
    depth_of: Literal["counts", "values"] = "counts"
    """What totals are totals of: the counts of the cell, or the values of its tokens (bulk samples)."""
    depth_scale: Literal["log10", "linear"] = "log10"
    """T and S are log10 of totals, or totals (normalized bulk samples)."""
    assay_key: str | None = None
    """Column of obs that names the assay; gives ``assay_ids``."""
    order: Literal["column", "vocabulary", "value", "random"] = "column"
    """Order of the genes: as in the vocabulary, by value (descending), or at random. ``column``: with `match_official`
    as the columns of the file stand; without it the order of the columns decides nothing, and it is ``vocabulary``."""
    duplicate_genes: Literal["sum", "first", "error"] = "sum"
    """What to do with columns of the same gene."""
    unknown_genes: Literal["drop", "token"] = "drop"
    """Genes that the vocabulary does not have: none, or each one as the token for unknown genes."""
    keep_zeros: bool = False
    """Give the genes that a cell does not express too, behind the others."""
    pad_value: float = 0.0
    """Value at padding."""
    seed: int = field(default=0, metadata={"ge": 0})
    """Seed of the random order."""
