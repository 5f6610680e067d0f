"""Options of the value objectives: keys, defaults, ranges. Only the standard library: read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MaskedValueOptions:
    """Options of ``masked_value_prediction`` (scGPT, fine-tuning)."""

    include_cls: bool = False
    """Let the ``<cls>`` position be masked and predicted, as the official fine-tuning does."""


@dataclass(frozen=True)
class GenerativeValueOptions:
    """Options of ``generative_value_prediction`` (scGPT, pretraining)."""

    generated_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Share of the genes of a cell that are generated; one is drawn a batch. ``mask_ratio`` is not read."""
    second_pass_after: int | None = field(default=1000, metadata={"ge": 0})
    """After this many optimizer steps, predict once more from the cell embedding; null never does."""

    def __post_init__(self) -> None:
        shares = self.generated_shares
        if not shares or not all(0 < share < 1 for share in shares):
            raise ValueError("generated_shares must be shares between 0 and 1, at least one")
