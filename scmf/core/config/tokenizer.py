"""The section ``tokenizer`` of every YAML file, and the options of each strategy.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (config), what a key does (scmf.tokenizers).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from scmf.core.config.options import check_options, options_schema, with_defaults
from scmf.core.config.section import Section, known


class TokenizerConfig(Section):
    """How a cell becomes a sequence."""

    strategy: Annotated[str, known("tokenizers")] = "rank_value"
    """Name of the tokenizer."""
    vocabulary: str = "fit"
    """``fit``: genes and non-zero medians of the training split; a card, ``geneformer-v2``; a saved tokenizer."""
    max_length: int = Field(2048, ge=3)
    """Longest sequence, special tokens included (the official ``model_input_size``)."""
    special_tokens: bool = False
    """Put ``<cls>`` before and ``<eos>`` after the genes (V2)."""
    min_cells: int = Field(10, ge=1)
    """With ``vocabulary: fit``: a gene enters when at least this many training cells express it."""
    top_genes: int | None = Field(None, ge=1)
    """With ``vocabulary: fit``: only so many most variable genes of the training cells (``seurat``); null: all."""
    match_official: bool = False
    """Reproduce the known quirks of the official code instead of correcting them."""
    options: dict[str, Any] = Field({}, json_schema_extra=options_schema("tokenizers"))
    """What only this strategy knows."""

    @model_validator(mode="after")
    def _options_of_strategy(self) -> TokenizerConfig:
        object.__setattr__(self, "options", check_options("tokenizers", self.strategy, self.options))
        return self

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the strategy, defaults included."""
        return with_defaults("tokenizers", self.strategy, self.options)
