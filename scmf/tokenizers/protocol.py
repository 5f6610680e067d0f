"""What scmf asks of a tokenizer: everything that building, streaming, training and publishing use.

A strategy of your own is a `transformers.PreTrainedTokenizer` that satisfies `Tokenizer`; it need not inherit from it.
Lives elsewhere: the strategies (one file each), how a name becomes a class (core.registry).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from scmf.tokenizers.encoded import EncodedCells


@runtime_checkable
class Tokenizer(Protocol):
    """Cells to sequences. The tokens of a cell are a function of the cell alone, or of (seed, draw, cell)."""

    model_input_names: ClassVar[list[str]]
    """Tensors of a batch; `scmf.models.protocol.Model.required_inputs` is held against them."""
    max_length: int
    """Longest sequence, special tokens included."""
    special_tokens: bool
    """Whether cells have special tokens around their genes."""
    match_official: bool
    """Whether known quirks of the official code are reproduced."""

    @classmethod
    def from_tables(
        cls,
        token_ids: Mapping[str, int],
        medians: Mapping[str, float],
        aliases: Mapping[str, str] | None = None,
        *,
        max_length: int,
        special_tokens: bool,
        match_official: bool = False,
        **options: Any,
    ) -> Self:
        """Make a tokenizer of a vocabulary: token -> id, gene -> non-zero median, other name -> gene."""
        ...

    @classmethod
    def fit(
        cls,
        counts: Any,
        genes: Sequence[str],
        *,
        min_cells: int,
        max_length: int,
        special_tokens: bool,
        match_official: bool = False,
        n_counts: Any = None,
        **options: Any,
    ) -> Self:
        """Make a tokenizer whose vocabulary comes from raw counts (B, G) of training cells."""
        ...

    @classmethod
    def vocabulary_of(cls, genes: Sequence[str], *, special_tokens: bool, **options: Any) -> dict[str, int]:
        """Token ids of a fitted vocabulary with these genes."""
        ...

    def encode_cells(
        self,
        counts: Any,
        genes: Sequence[str],
        *,
        n_counts: Any = None,
        empty: Any = "error",
        draw: int = 0,
        dtype: Any = np.int32,
    ) -> EncodedCells:
        """Tokenize a block of cells (B, G) without padding; ``draw`` is the epoch, for a stochastic tokenizer."""
        ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens in every cell: a cell of this length has no gene. ``pair`` is not used."""
        ...

    def cell_tensors(self, obs: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Tensors with one entry a cell, made of columns of obs (assays)."""
        ...

    def fit_obs(self, obs: Mapping[str, Sequence[str]]) -> None:
        """Learn the values that the columns of obs have in training cells."""
        ...

    @property
    def obs_columns(self) -> tuple[str, ...]:
        """Columns of obs that `cell_tensors` and `fit_obs` read."""
        ...

    @property
    def pad_values(self) -> dict[str, float]:
        """Column of a batch -> what fills short rows."""
        ...

    @property
    def is_stochastic(self) -> bool:
        """Whether the tokens of a cell differ from one ``draw`` to the next."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides the tokens of a cell."""
        ...

    @property
    def options(self) -> dict[str, Any]:
        """The options of the strategy, as ``tokenizer.options`` of a configuration names them."""
        ...
