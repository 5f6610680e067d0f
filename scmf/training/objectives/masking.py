"""What the objectives that hide values share: which positions hold genes, and how a share of them is drawn.

Lives elsewhere: what becomes of the positions that are drawn (the file of each objective).

Shape suffixes: B cells, L positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scmf.core.errors import TrainingError

IGNORED = -100
"""Label of positions that do not enter the loss."""


def draw_share(
    candidates_BL: Tensor,
    share: float,
    generator: torch.Generator,
    *,
    at_least_one: bool = True,
    leave_one: Tensor | None = None,
) -> Tensor:
    """Choose exactly ``int(share * n)`` of the n candidates of each row at random, bool (B, L).

    Parameters
    ----------
    candidates_BL
        Positions that may be chosen.
    share
        Below 1.
    at_least_one
        Choose one in the whole batch where the rule gives none.
    leave_one
        Of these positions at least one a row is to stay when one is chosen in that way.
    """
    counts_B = candidates_BL.sum(1)
    wanted_B = (counts_B.double() * share).long()
    if at_least_one and not wanted_B.any():
        able_B = (counts_B > 0) if leave_one is None else (counts_B > 0) & (leave_one.sum(1) > 1)
        rows = able_B.nonzero()[:, 0]
        if len(rows):
            wanted_B[rows[int(torch.randint(len(rows), (1,), generator=generator))]] = 1
    chance_BL = torch.rand(candidates_BL.shape, generator=generator).masked_fill_(~candidates_BL, 2.0)
    rank_BL = chance_BL.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (rank_BL < wanted_B[:, None]) & candidates_BL


def gene_positions(batch: dict[str, Tensor], special_token_ids: tuple[int, ...]) -> Tensor:
    """Positions of a batch that hold a gene: neither padding nor a special token, bool (B, L)."""
    special_BL = torch.isin(batch["input_ids"], torch.tensor(special_token_ids, dtype=torch.long))
    return batch["attention_mask"].bool() & ~special_BL


def value_special_ids(tokenizer: Any, task: str) -> tuple[int, ...]:
    """Ids of the special tokens, sorted; `TrainingError` for a tokenizer whose tokens have no values."""
    if "values" not in tokenizer.model_input_names:
        raise TrainingError(
            f"{type(tokenizer).__name__} gives no values",
            wanted="a tokenizer whose tokens have values, such as binned or continuous",
            where=f"training.pretraining_task: {task}",
            fix="choose another tokenizer.strategy, or masked_gene_prediction",
        )
    return tuple(sorted(tokenizer.all_special_ids))
