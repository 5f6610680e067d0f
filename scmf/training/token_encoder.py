"""A tokenizer as an encoder of a stream: blocks of counts become ragged tokens.

Lives elsewhere: what calls it (data.stream), where the tokenizer comes from (stream_data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scmf.core.errors import DataError, from_value_error
from scmf.core.files import sha256_json
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.ragged import BadRows, Ragged
from scmf.data.stores.store import CountBlock
from scmf.tokenizers.build import ragged_of


class TokenEncoder:
    """A tokenizer as an encoder of the stream; threads share it.

    Parameters
    ----------
    tokenizer
        Any tokenizer with ``encode_cells(counts, genes, ...)``.
    aligner
        Bring the cells onto these genes first; total counts are still those of all genes of the cell.
    draw
        Number of the draw, for tokenizers that draw.
    """

    def __init__(self, tokenizer: Any, *, aligner: GeneAligner | None = None, draw: int = 0) -> None:
        self.tokenizer, self.aligner, self.draw = tokenizer, aligner, draw
        self.pad_values: Mapping[str, float] = tokenizer.pad_values
        self._without_genes = tokenizer.num_special_tokens_to_add()
        self._dtype = np.int16 if len(tokenizer) <= np.iinfo(np.int16).max else np.int32

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides the tokens of a cell."""
        return sha256_json([self.tokenizer.fingerprint, None if self.aligner is None else self.aligner.fingerprint])

    def at_epoch(self, epoch: int) -> TokenEncoder:
        """The encoder of an epoch: another draw, where the tokenizer draws."""
        if not self.tokenizer.is_stochastic:
            return self
        return TokenEncoder(self.tokenizer, aligner=self.aligner, draw=epoch)

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Ragged:
        """See `scmf.data.stores.ragged.Encoder`."""
        totals = None
        if self.aligner is not None:
            aligned = self.aligner.align(counts, self.aligner.columns(genes), in_place=True)
            # float32, as the tokenizer's own sums of float32 counts are
            counts, genes, totals = aligned.counts, self.aligner.genes, aligned.n_counts_B.astype(np.float32)
        try:
            cells = self.tokenizer.encode_cells(
                counts.csr(), genes, n_counts=totals, dtype=self._dtype, empty="keep", draw=self.draw
            )
        except ValueError as error:
            raise from_value_error(DataError, error, where="a block of the stream") from error
        empty = np.flatnonzero(cells.lengths <= self._without_genes)
        if len(empty):
            raise BadRows(
                f"{len(empty)} cell(s) without counts in any known gene",
                wanted="counts of at least one gene of the vocabulary in every cell",
                fix="leave such cells out: data.filter.min_genes or min_counts, or a split without them",
                rows=empty,
            )
        return ragged_of(self.tokenizer, cells)
