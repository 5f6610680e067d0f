"""Read-depth-aware pretraining (scFoundation): predict values at full depth from a thinned and masked cell.

Lives here: thinning of counts, masks, which genes are to be predicted. Lives elsewhere: the loss itself (the model),
the loop (training.loop).

Shape suffixes: B cells, L tokens of the batch, M genes to be predicted, V token ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.training.objectives.masking import IGNORED
from scmf.training.objectives.read_depth_options import ReadDepthOptions

DEPTH_TOKENS = ("<T>", "<S>")
"""Names of the tokens of the depth to reach and of the depth of the cell."""


class _Cells(NamedTuple):
    """A batch as arrays; ``values_BL`` are those the encoder may see, ``true_BL`` those to be predicted."""

    ids_BL: np.ndarray
    real_BL: np.ndarray
    gene_BL: np.ndarray
    true_BL: np.ndarray
    values_BL: np.ndarray
    depth_B2: np.ndarray | None


@dataclass(frozen=True, eq=False)
class ReadDepthAware:
    """Read-depth-aware masked value prediction, the objective of scFoundation.

    A share of the cells is thinned: each count survives with a probability of that cell, and the counts that are left
    are normalized again. The token T says the depth of the cell as it was, S that of what is left. Of the genes with a
    count ``mask_ratio`` are chosen, of those without one ``zero_mask_ratio``; a chosen gene is hidden (it leaves the
    encoder, and the decoder sees a mask), shown with the value of another gene of the batch, or shown as it is. The
    loss is the mean squared error over chosen genes against the values before thinning:

        L = 1/|M| * sum over m in M of (p_m - ln(1 + count_m / total x 10,000))^2

    Source: Hao et al. 2024, doi:10.1038/s41592-024-02305-7, Methods; ratios from ``training_hyperparameter.txt`` and
    the configuration that the released checkpoint carries. **Not published** (the pretraining code never was): how the
    depth is drawn (supplementary note 9), what a random value is, in which order masks are drawn. Ours are: with
    probability ``downsample_share`` a rate from Beta(``rate_alpha``, ``rate_beta``) and binomial thinning, counts of
    genes outside the vocabulary included; the value of a gene of the batch; masks on what is left after thinning. The
    paper says 30 % "for both zero and nonzero values", the configuration 0.03 for zeros: the configuration holds here.

    Raw counts are taken from the values: ``count = (exp(value) - 1) x total / 10,000``, rounded, with the total
    ``10^S`` of the tensor ``depth``. A tokenizer without it, or with values of another kind (digits, clipped counts),
    is trained without thinning.

    Parameters
    ----------
    mask_ratio, zero_mask_ratio
        Share of the genes with and without a count that are to be predicted.
    replace_share, random_share
        Of these, the share that is hidden and the share that is shown with another value.
    downsample_share, rate_alpha, rate_beta
        Share of the cells that are thinned and the distribution of the rate.
    gene_V
        Which token ids are genes, bool (V,).
    pad_token_id, pad_value
        What fills short rows.
    depth_token_ids
        Ids of T and S, None without such tokens.
    scale
        Total that values are normalized to (10,000); None if counts cannot be had from them.
    longest
        Longest cell in tokens. Of a cell as long as that genes may have been cut off, so the genes it lacks are not
        taken for zeros.
    match_official
        A batch may have nothing to predict (its loss is then NaN); by default one gene is drawn.
    """

    Options = ReadDepthOptions

    mask_ratio: float
    zero_mask_ratio: float
    replace_share: float
    random_share: float
    downsample_share: float
    rate_alpha: float
    rate_beta: float
    gene_V: np.ndarray
    pad_token_id: int
    pad_value: float
    depth_token_ids: tuple[int, int] | None
    scale: float | None
    longest: int
    match_official: bool = False
    name: str = "read_depth_aware"

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """See `Objective`; `TrainingError` for a tokenizer without values."""
        if "values" not in tokenizer.model_input_names:
            raise TrainingError(
                f"{type(tokenizer).__name__} gives {', '.join(tokenizer.model_input_names)}",
                wanted="also values",
                where="training.pretraining_task: read_depth_aware",
                fix="choose the tokenizer continuous or binned, or another objective",
            )
        vocabulary, given = tokenizer.get_vocab(), getattr(tokenizer, "options", {})
        special = {*tokenizer.all_special_ids, *(vocabulary[name] for name in DEPTH_TOKENS if name in vocabulary)}
        gene_V = np.zeros(1 + max(vocabulary.values()), bool)
        gene_V[[token for token in vocabulary.values() if token not in special]] = True
        logarithms = given.get("transform") == "log1p_10k" and given.get("depth_scale", "log10") == "log10"
        of_counts = logarithms and given.get("depth_of", "counts") == "counts"
        return cls(
            mask_ratio=training.mask_ratio,
            **training.all_options,
            gene_V=gene_V,
            pad_token_id=tokenizer.pad_token_id,
            pad_value=tokenizer.pad_values["values"],
            depth_token_ids=tuple(vocabulary[name] for name in DEPTH_TOKENS) if given.get("depth_tokens") else None,
            scale=float(given.get("target_sum") or 10_000) if of_counts else None,
            longest=tokenizer.max_length,
            match_official=match_official,
        )

    @property
    def definition(self) -> str:
        """See `Objective`."""
        what = f"ln(1 + count / total x {self.scale:,.0f})" if self.scale else "the tokenizer's values"
        return (
            f"mean squared error of the masked genes of the validation cells, in units of {what}, draws fixed (torch)"
        )

    def at(self, step: int) -> Self:
        """The same at every step."""
        return self

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Thin and mask a batch.

        Parameters
        ----------
        batch
            ``input_ids`` and ``attention_mask`` int64 (B, L), ``values`` float32 (B, L) and, for thinning, ``depth``
            (B, 2): T and S. On the CPU.
        generator
            Source of the draws.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask`` and ``values`` of what the encoder sees; ``depth`` of the thinned cell;
            ``target_ids`` int64 (B, M), -100 in short rows; ``target_values`` float32 (B, M); ``target_hidden`` bool
            (B, M); what the batch holds once a cell, as it was.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        cells = self._thinned(_cells(batch, self.gene_V), rng)
        n_cells, n_ids = len(cells.ids_BL), self.gene_V.size
        rows, places = np.nonzero(cells.gene_BL)
        tokens = cells.ids_BL[rows, places]
        true_BV, shown_BV = np.zeros((n_cells, n_ids), np.float32), np.zeros((n_cells, n_ids), np.float32)
        true_BV[rows, tokens], shown_BV[rows, tokens] = cells.true_BL[rows, places], cells.values_BL[rows, places]
        seen_BV, listed_BV = shown_BV > 0, np.zeros((n_cells, n_ids), bool)
        listed_BV[rows, tokens] = True
        whole_B = cells.real_BL.sum(1) < self.longest
        zero_BV = ~seen_BV & self.gene_V & (whole_B[:, None] | listed_BV)

        chance_BV = rng.random((n_cells, n_ids), np.float32)
        chosen_BV = (seen_BV & (chance_BV < self.mask_ratio)) | (zero_BV & (chance_BV < self.zero_mask_ratio))
        if not self.match_official and not chosen_BV.any() and seen_BV.any():
            spots = np.flatnonzero(seen_BV)
            chosen_BV.flat[spots[rng.integers(spots.size)]] = True
        kind_BV = rng.random((n_cells, n_ids), np.float32)
        hidden_BV = chosen_BV & (kind_BV < self.replace_share)
        random_BV = chosen_BV & ~hidden_BV & (kind_BV < self.replace_share + self.random_share)
        random_BV &= seen_BV.any()
        if random_BV.any():
            shown_BV[random_BV] = rng.choice(shown_BV[seen_BV], int(random_BV.sum()))

        visible_BV = (seen_BV & ~hidden_BV) | random_BV
        if not self.match_official:
            self._leave_one(cells, seen_BV, visible_BV, hidden_BV, rng)
        seen = self._encoder_sees(cells, visible_BV, shown_BV)
        targets = _targets(chosen_BV, true_BV, hidden_BV)
        cell_tensors = {name: tensor for name, tensor in batch.items() if name not in (*seen, "depth")}
        depth = {} if cells.depth_B2 is None else {"depth": torch.from_numpy(cells.depth_B2.astype(np.float32))}
        return {**cell_tensors, **seen, **depth, **targets}

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of genes to be predicted."""
        return int((inputs["target_ids"] != IGNORED).sum())

    # --- parts ----------------------------------------------------------------------------------------

    def _thinned(self, cells: _Cells, rng: np.random.Generator) -> _Cells:
        """The cells as the encoder may see them: some thinned; T and S say the depth before and after."""
        if self.scale is None or cells.depth_B2 is None:
            return cells
        total_B = np.rint(10.0 ** cells.depth_B2[:, 1].astype(np.float64))
        thin_B = (rng.random(len(total_B)) < self.downsample_share) & (total_B >= 1) & np.isfinite(total_B)
        rate_B = rng.beta(self.rate_alpha, self.rate_beta, len(total_B))
        share_BL = np.where(cells.gene_BL, np.expm1(cells.true_BL.astype(np.float64)) / self.scale, 0)
        counts_BL = np.rint(share_BL * total_B[:, None]).astype(np.int64)
        others_B = np.maximum(total_B - counts_BL.sum(1), 0).astype(np.int64)
        left_BL = rng.binomial(counts_BL, rate_B[:, None])
        left_B = left_BL.sum(1) + rng.binomial(others_B, rate_B)
        thin_B &= left_BL.any(1)  # a cell of which nothing is left stays as it is
        normed_BL = np.log1p(left_BL / np.maximum(left_B, 1)[:, None] * self.scale)
        values_BL = np.where(thin_B[:, None] & cells.gene_BL, normed_BL, cells.values_BL).astype(np.float32)
        with np.errstate(divide="ignore"):
            depth_B2 = np.log10(np.stack([total_B, np.where(thin_B, left_B, total_B)], 1))
        for token, depth_B in zip(self.depth_token_ids or (), depth_B2.T, strict=False):
            values_BL = np.where(cells.ids_BL == token, depth_B[:, None].astype(np.float32), values_BL)
        return cells._replace(values_BL=values_BL, depth_B2=depth_B2)

    def _leave_one(
        self,
        cells: _Cells,
        seen_BV: np.ndarray,
        visible_BV: np.ndarray,
        hidden_BV: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """A cell whose encoder would see nothing at all gets one of its genes back, to be predicted all the same."""
        others_B = (cells.real_BL & ~cells.gene_BL).any(1)
        for row in np.flatnonzero(~others_B & ~visible_BV.any(1) & seen_BV.any(1)):
            token = rng.choice(np.flatnonzero(seen_BV[row]))
            visible_BV[row, token], hidden_BV[row, token] = True, False

    def _encoder_sees(self, cells: _Cells, visible_BV: np.ndarray, shown_BV: np.ndarray) -> dict[str, Tensor]:
        """Tokens of the encoder, padded: special ones and visible genes in their order, random zero genes behind."""
        rows_B1 = np.arange(len(cells.ids_BL))[:, None]
        keep_BL = cells.real_BL & (~cells.gene_BL | visible_BV[rows_B1, cells.ids_BL])
        values_BL = np.where(cells.gene_BL, shown_BV[rows_B1, cells.ids_BL], cells.values_BL)
        new_BV = visible_BV.copy()
        rows, places = np.nonzero(cells.gene_BL)
        new_BV[rows, cells.ids_BL[rows, places]] = False
        old, new = np.nonzero(keep_BL), np.nonzero(new_BV)
        n_cells = len(cells.ids_BL)
        old_B, new_B = np.bincount(old[0], minlength=n_cells), np.bincount(new[0], minlength=n_cells)
        width = max(int((old_B + new_B).max(initial=0)), 1)
        ids, values = np.full((n_cells, width), self.pad_token_id), np.full((n_cells, width), self.pad_value)
        for row, start_B, tokens, shown in (
            (old[0], np.zeros(n_cells, np.int64), cells.ids_BL[old], values_BL[old]),
            (new[0], old_B, new[1], shown_BV[new]),
        ):
            first_B = np.searchsorted(row, np.arange(n_cells))
            at = start_B[row] + np.arange(row.size) - first_B[row]
            ids[row, at], values[row, at] = tokens, shown
        mask = np.arange(width) < (old_B + new_B)[:, None]
        return {
            "input_ids": torch.from_numpy(ids.astype(np.int64)),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "values": torch.from_numpy(values.astype(np.float32)),
        }


def _cells(batch: dict[str, Tensor], gene_V: np.ndarray) -> _Cells:
    ids_BL, real_BL = batch["input_ids"].numpy(), batch["attention_mask"].numpy().astype(bool)
    values_BL = batch["values"].numpy()
    depth = batch.get("depth")
    return _Cells(
        ids_BL, real_BL, real_BL & gene_V[ids_BL], values_BL, values_BL, None if depth is None else depth.numpy()
    )


def _targets(chosen_BV: np.ndarray, true_BV: np.ndarray, hidden_BV: np.ndarray) -> dict[str, Tensor]:
    """The chosen genes of each cell, padded with -100."""
    rows, tokens = np.nonzero(chosen_BV)
    counts_B = np.bincount(rows, minlength=len(chosen_BV))
    shape = (len(chosen_BV), max(int(counts_B.max(initial=0)), 1))
    at = np.arange(rows.size) - np.searchsorted(rows, np.arange(len(chosen_BV)))[rows]
    ids, values, hidden = np.full(shape, IGNORED), np.zeros(shape, np.float32), np.zeros(shape, bool)
    ids[rows, at], values[rows, at] = tokens, true_BV[rows, tokens]
    hidden[rows, at] = hidden_BV[rows, tokens]
    return {
        "target_ids": torch.from_numpy(ids.astype(np.int64)),
        "target_values": torch.from_numpy(values),
        "target_hidden": torch.from_numpy(hidden),
    }
