"""Cells to sequences: one file a strategy. A tokenizer knows no model and no file of ours."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "binned": "BinnedTokenizer",
        "build": "fitted_tokenizer given_tokenizer tokenize",
        "continuous": "ContinuousTokenizer",
        "encoded": "EncodedCells",
        "gene_embedding": "GeneEmbeddingTokenizer",
        "protocol": "Tokenizer",
        "rank_value": "RankValueTokenizer",
    },
)
