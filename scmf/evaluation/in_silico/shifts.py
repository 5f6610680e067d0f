"""How far a perturbation moves the embedding of a cell, and whether it moves towards a state.

Lives here: embedding of changed cells block by block, cosines. Lives elsewhere: the changed cells (edits), statistics
over cells (statistics).

Legend: E edits, S states, D width, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from scmf.core import progress
from scmf.core.errors import ModelError
from scmf.data.stores.ragged import Ragged
from scmf.evaluation.in_silico.edits import Editor
from scmf.evaluation.in_silico.plan import Plan, Targets
from scmf.models.embed import embed_rows


@dataclass(frozen=True)
class Measure:
    """What of a cell is compared.

    Parameters
    ----------
    layer, pooling
        As ``embed`` of the network takes them.
    batch_size
        Cells in a forward pass.
    by_gene
        The similarity of two cells is the mean cosine of the vectors of the genes that both hold and that were not
        changed, as the official code has it without a ``<cls>`` token; else it is the cosine of the vectors of the
        cells.
    special_ids
        Tokens that are no genes.
    """

    layer: int
    pooling: str
    batch_size: int = 64
    by_gene: bool = False
    special_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shifts:
    """What the edits of some cells did.

    Parameters
    ----------
    cell_E, target_E
        int64: the cell and the target, in the order of targets and then of cells.
    cosine_E
        float64: similarity of the changed cell and the cell as it was; 1 where nothing moved.
    states
        Names of the states.
    shift_ES
        float64: cosine of the changed cell and a state, less that of the cell as it was.
    unread_T
        int64: edits of each target that are not among these, because the model does not read the gene there: a long
        cell was sampled or cut.
    """

    cell_E: np.ndarray
    target_E: np.ndarray
    cosine_E: np.ndarray
    states: tuple[str, ...]
    shift_ES: np.ndarray
    unread_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def measure(
    network: Any, editor: Editor, plan: Plan, targets: Targets, how: Measure, *, states: Mapping[str, np.ndarray]
) -> Shifts:
    """Embed every edit of a plan and compare it with the cell as it was.

    Memory is bounded by two batches; the result depends on the batch size by the rounding of float32 alone.

    Parameters
    ----------
    network
        A model with ``embed(**batch, layer=, pooling=)``.
    editor, plan
        The cells and their edits.
    targets
        What was changed.
    how
        What is compared.
    states
        Name -> mean vector of the cells of a state (D,).

    Raises
    ------
    ModelError
        The layer or the pooling does not exist, or a vector is not finite.
    """
    n = len(plan.cell_E)
    cosine_E, shift_ES, is_read_E = np.empty(n), np.empty((n, len(states))), np.ones(n, bool)
    state_SD = np.array([np.asarray(vector, np.float64) for vector in states.values()])
    held: dict[tuple[int, int], _Cell] = {}
    several = n > how.batch_size  # of one batch a bar would show nothing but its end
    with progress.bar("perturbing", n, unit="cells") if several else nullcontext(progress.Bar("")) as bar:
        for start in range(0, n, how.batch_size):
            rows = slice(start, min(start + how.batch_size, n))
            target_B = plan.target_E[rows]
            block = editor.block(plan.cell_E[rows], target_B)
            is_read_E[rows] = block.is_read_E
            new = np.array([i for i, key in enumerate(block.keys) if key not in held], np.int64)
            embedded = dict(
                zip([block.keys[i] for i in new], _embedded(network, block.originals, new, how), strict=True)
            )
            held = {key: held[key] if key in held else embedded[key] for key in block.keys}
            before = [held[block.keys[i]] for i in block.original_E]
            after = list(_embedded(network, block.perturbed, np.arange(len(target_B)), how))
            if how.by_gene:
                for at, (old, changed) in enumerate(zip(before, after, strict=True)):
                    cosine_E[start + at] = _mean_cosine(old, changed, targets.tokens[target_B[at]])
            old_BD, new_BD = (np.stack([cell.vector for cell in cells]) for cells in (before, after))
            if not (np.isfinite(old_BD).all() and np.isfinite(new_BD).all()):
                raise ModelError(
                    "a vector that is not finite", wanted="finite numbers", where="in-silico perturbation",
                    fix="check the weights of the model",
                )  # fmt: skip
            if not how.by_gene:
                cosine_E[rows] = cosine(old_BD, new_BD)
            for s, state_D in enumerate(state_SD):
                shift_ES[rows, s] = cosine(new_BD, state_D) - cosine(old_BD, state_D)
            bar.advance(len(target_B))
    unread_T = np.bincount(plan.target_E[~is_read_E], minlength=len(targets.tokens))
    order = np.lexsort((plan.cell_E, plan.target_E))
    order = order[is_read_E[order]]
    return Shifts(plan.cell_E[order], plan.target_E[order], cosine_E[order], tuple(states), shift_ES[order], unread_T)


@dataclass(frozen=True)
class _Cell:
    """A cell as the network sees it: its vector (D,) in float64 and, by gene, ids (G,) and vectors (G, D)."""

    vector: np.ndarray
    ids: np.ndarray | None = None
    genes: Tensor | None = None


def _embedded(network: Any, cells: Ragged, rows: np.ndarray, how: Measure) -> list[_Cell]:
    """The cells ``rows`` of a block, which is at most one batch."""
    if not len(rows):
        return []
    if not how.by_gene:
        x_BD = embed_rows(network, cells, rows, layer=how.layer, pooling=how.pooling)
        return [_Cell(vector) for vector in x_BD.float().cpu().numpy().astype(np.float64)]
    x_BLD = embed_rows(network, cells, rows, layer=how.layer, pooling="gene").float()
    found = []
    for x_LD, row in zip(x_BLD, rows, strict=True):
        ids = cells.columns["input_ids"][cells.offsets[row] : cells.offsets[row + 1]]
        is_gene = ~np.isin(ids, how.special_ids)
        x_GD = x_LD[: len(ids)][torch.from_numpy(is_gene).to(x_LD.device)]
        found.append(_Cell(x_GD.mean(0).cpu().numpy().astype(np.float64), ids[is_gene], x_GD))
    return found


def _mean_cosine(old: _Cell, new: _Cell, changed: tuple[int, ...]) -> float:
    """Mean cosine of the vectors of the genes that two cells share in their order, without those that were changed."""
    kept = []
    for cell in (old, new):
        assert cell.ids is not None and cell.genes is not None
        kept.append(cell.genes[torch.from_numpy(~np.isin(cell.ids, changed)).to(cell.genes.device)])
    n = min(map(len, kept))
    return float(cosine_similarity(kept[0][:n], kept[1][:n], dim=1).cpu().double().mean())


def cosine(a_BD: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of rows (B, D) and rows (B, D) or one vector (D,)."""
    norms = np.linalg.norm(a_BD, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a_BD * b).sum(axis=-1) / np.maximum(norms, 1e-16))
