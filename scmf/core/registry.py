"""A name in a YAML file becomes a class: the one table of what is built in.

Only built-in names are resolved. Entry points and dotted paths (``my_pkg.module:Class``) belong to
this same function when code from outside is let in.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from scmf.core.errors import ConfigError

BUILT_IN: dict[str, dict[str, str]] = {
    "tokenizers": {
        "rank_value": "scmf.tokenizers.rank_value:RankValueTokenizer",
        "binned": "scmf.tokenizers.binned:BinnedTokenizer",
        "continuous": "scmf.tokenizers.continuous:ContinuousTokenizer",
        "gene_embedding": "scmf.tokenizers.gene_embedding:GeneEmbeddingTokenizer",
    },
    "models": {
        "transformer_encoder": "scmf.models.transformer_encoder:TransformerEncoderForMaskedLM",
        "generative_transformer": "scmf.models.generative_transformer:GenerativeTransformerModel",
        "masked_autoencoder": "scmf.models.masked_autoencoder:MaskedAutoencoderModel",
        "autoregressive_transformer": "scmf.models.autoregressive_transformer:AutoregressiveTransformerModel",
    },
    "objectives": {
        "masked_gene_prediction": "scmf.training.objectives.masked_gene:MaskedGenePrediction",
        "masked_value_prediction": "scmf.training.objectives.masked_value:MaskedValuePrediction",
        "generative_value_prediction": "scmf.training.objectives.generative_value:GenerativeValuePrediction",
        "read_depth_aware": "scmf.training.objectives.read_depth:ReadDepthAware",
        "next_gene_prediction": "scmf.training.objectives.next_gene:NextGenePrediction",
    },
    "benchmarks": {
        "annotation": "scmf.evaluation.annotation.benchmark:Annotation",
        "integration": "scmf.evaluation.integration.protocols:IntegrationBenchmark",
        "perturbation": "scmf.evaluation.perturbation.benchmark:Perturbation",
        "gene_network": "scmf.evaluation.gene_network.benchmark:GeneNetwork",
    },
}


def names(kind: str) -> list[str]:
    """Names known for ``kind``, sorted."""
    return sorted(BUILT_IN[kind])


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint ``did you mean 'x'? `` or the list of what is known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def check(kind: str, name: str) -> str:
    """Return ``name`` if ``kind`` knows it, else raise `ConfigError` with a hint."""
    if name not in BUILT_IN[kind]:
        raise ConfigError(
            f"{kind[:-1]} {name!r}",
            wanted=f"one of {', '.join(names(kind))}",
            fix=did_you_mean(name, names(kind)),
        )
    return name


def resolve(kind: str, name: str) -> Any:
    """Import and return the class that ``name`` stands for."""
    module, _, attribute = BUILT_IN[kind][check(kind, name)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def class_name(kind: str, name: str) -> str:
    """Name of the class that ``name`` stands for, without importing it."""
    return BUILT_IN[kind][check(kind, name)].partition(":")[2]
