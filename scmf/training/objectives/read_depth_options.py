"""Options of read-depth-aware pretraining: keys, defaults, ranges. Only the standard library: read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReadDepthOptions:
    """Options of ``read_depth_aware`` (scFoundation, pretraining)."""

    zero_mask_ratio: float = field(default=0.03, metadata={"ge": 0, "lt": 1})
    """Share of the genes without a count that are to be predicted."""
    replace_share: float = field(default=0.8, metadata={"ge": 0, "le": 1})
    """Of the genes to be predicted, the share that is hidden behind the mask."""
    random_share: float = field(default=0.1, metadata={"ge": 0, "le": 1})
    """The share that is shown with the value of another gene of the batch; the rest is shown as it is."""
    downsample_share: float = field(default=0.5, metadata={"ge": 0, "le": 1})
    """Share of the cells that are thinned. Ours: the official distribution is in an unpublished note."""
    rate_alpha: float = field(default=2.0, metadata={"gt": 0})
    """A thinned cell keeps each count with a probability drawn from Beta(``rate_alpha``, ``rate_beta``). Ours."""
    rate_beta: float = field(default=2.0, metadata={"gt": 0})
    """See ``rate_alpha``."""

    def __post_init__(self) -> None:
        if self.replace_share + self.random_share > 1:
            raise ValueError("replace_share and random_share add up to more than 1")
