"""The section ``tokenizer`` of every YAML file, and the options of each strategy.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (config), what a key does (scmf.tokenizers).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scmf.core.config.section import Section, check_options, known, options_schema, with_defaults


class BinnedOptions(Section):
    """Options of ``binned`` (scGPT)."""

    n_bins: Literal[0] | Annotated[int, Field(ge=2, le=32768)] = 51
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
    """Of a cell with more genes than fit keep a random sample, or the first ones in the order of the columns."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the digits of tied values and of the genes kept of a long cell."""


class ContinuousOptions(Section):
    """Options of ``continuous`` (scFoundation and TranscriptFormer)."""

    transform: Literal["log1p_10k", "clipped_counts", "as_given"] = "log1p_10k"
    """``log1p_10k``: ln(1 + count / total x 10,000); ``clipped_counts``: up to ``clip``; ``as_given``: values."""
    target_sum: float | None = Field(None, gt=0)
    """Totals are brought to this; None: 10,000 with ``log1p_10k``, counts as they are with ``clipped_counts``."""
    clip: float = Field(30.0, gt=0)
    """Largest count with ``clipped_counts``."""
    depth_tokens: bool = False
    """Append the tokens T (depth to reach) and S (depth of the cell) of scFoundation."""
    target_depth: str = Field("t4", pattern=r"^[tfa]-?[0-9.]+(e-?[0-9]+)?$")
    """T: ``t<x>`` is x, ``f<x>`` log10(total x x), ``a<x>`` log10(total) + x."""
    depth_of: Literal["counts", "values"] = "counts"
    """What totals are totals of: the counts of the cell, or the values of its tokens (bulk samples)."""
    depth_scale: Literal["log10", "linear"] = "log10"
    """T and S are log10 of totals, or totals (normalized bulk samples)."""
    assay_key: str | None = None
    """Column of obs that names the assay; gives ``assay_ids``."""
    order: Literal["column", "vocabulary", "value", "random"] = "column"
    """Order of the genes: as in the file or the vocabulary, by value (descending), or at random."""
    duplicate_genes: Literal["sum", "first", "error"] = "sum"
    """What to do with columns of the same gene."""
    unknown_genes: Literal["drop", "token"] = "drop"
    """Genes that the vocabulary does not have: none, or each one as the token for unknown genes."""
    keep_zeros: bool = False
    """Give the genes that a cell does not express too, behind the others."""
    pad_value: float = 0.0
    """Value at padding."""
    seed: int = Field(0, ge=0)
    """Seed of the random order."""


class GeneEmbeddingOptions(ContinuousOptions):
    """Options of ``gene_embedding``: those of ``continuous``, and a table of gene vectors."""

    vectors: str = "fit"
    """Pretrained gene vectors: a card, or a .npz, .h5 or .parquet file keyed by gene; ``fit``: from the cells."""
    dimensions: int = Field(64, ge=1)
    """Width of the vectors with ``vectors: fit``."""
    missing_vectors: Literal["drop", "mean", "error"] = "drop"
    """Genes without a vector: no token, the mean of the vectors that were found, or an error."""


OPTIONS: dict[str, type[Section]] = {
    "binned": BinnedOptions,
    "continuous": ContinuousOptions,
    "gene_embedding": GeneEmbeddingOptions,
}


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
    options: dict[str, Any] = Field({}, json_schema_extra=options_schema(OPTIONS))
    """What only this strategy knows."""

    @model_validator(mode="after")
    def _options_of_strategy(self) -> TokenizerConfig:
        object.__setattr__(self, "options", check_options(self.options, OPTIONS, choice=self.strategy))
        return self

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the strategy, defaults included."""
        return with_defaults(self.options, OPTIONS, self.strategy)
