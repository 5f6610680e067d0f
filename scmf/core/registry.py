"""A name in a YAML file becomes a class: what is built in, what other distributions bring, and dotted paths.

A name is one of `BUILT_IN`; an alias of one (the name of a paper); the name of an entry point of the group
``scmf.<kind>``; or ``package.module:Class``. Code from outside is imported only after `trust`, which the command line
calls for ``--trust``: a YAML file alone never runs code that scmf did not bring. `require_trust`
is asked wherever code of others would run: names here, recipes (core.config.recipe), saved models (models.checkpoint).
"""

from __future__ import annotations

import difflib
import importlib
import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from scmf.core.errors import ConfigError
from scmf.core.provenance import DISTRIBUTION

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
    "readers": {
        "h5ad": "scmf.data.stores.h5ad_store:H5adStore",
        "zarr": "scmf.data.stores.zarr_store:ZarrStore",
    },
    "converters": {
        "geneformer": "scmf.models.published.geneformer:GeneformerConverter",
        "scgpt": "scmf.models.published.scgpt:ScgptConverter",
        "scfoundation": "scmf.models.published.scfoundation:ScfoundationConverter",
        "transcriptformer": "scmf.models.published.transcriptformer:TranscriptformerConverter",
    },
}
"""Kind -> name -> where its class is."""

OPTIONS: dict[str, dict[str, str]] = {
    "tokenizers": {
        "binned": "scmf.tokenizers.binned_options:BinnedOptions",
        "continuous": "scmf.tokenizers.continuous_options:ContinuousOptions",
        "gene_embedding": "scmf.tokenizers.gene_embedding_options:GeneEmbeddingOptions",
    },
    "models": {
        "transformer_encoder": "scmf.models.transformer_encoder_options:EncoderOptions",
        "generative_transformer": "scmf.models.generative_transformer_options:GenerativeOptions",
        "masked_autoencoder": "scmf.models.masked_autoencoder_options:MaskedAutoencoderOptions",
        "autoregressive_transformer": "scmf.models.autoregressive_transformer_options:AutoregressiveOptions",
    },
    "objectives": {
        "masked_value_prediction": "scmf.training.objectives.value_options:MaskedValueOptions",
        "generative_value_prediction": "scmf.training.objectives.value_options:GenerativeValueOptions",
        "read_depth_aware": "scmf.training.objectives.read_depth_options:ReadDepthOptions",
        "next_gene_prediction": "scmf.training.objectives.next_gene_options:NextGeneOptions",
    },
}
"""Kind -> built-in name -> its class's ``Options``, in a light file, so that a YAML file is checked without torch."""

ALIASES: dict[str, dict[str, str]] = {
    "tokenizers": {
        "binned_expression": "binned",
        "continuous_projection": "continuous",
        "geneformer": "rank_value",
        "scgpt": "binned",
        "scfoundation": "continuous",
        "transcriptformer": "continuous",
    },
    "models": {
        "geneformer": "transformer_encoder",
        "scgpt": "generative_transformer",
        "scfoundation": "masked_autoencoder",
        "transcriptformer": "autoregressive_transformer",
    },
}
"""Kind -> name of a paper or of the field -> name of what it describes. Options of a paper are those of its recipe."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_trusted = False


def trust(given: bool = True) -> None:
    """Let code that scmf did not bring be imported: entry points of other distributions and dotted paths."""
    global _trusted
    _trusted = given


def trusted() -> bool:
    """Whether `trust` was called."""
    return _trusted


def require_trust(what: str, *, where: object) -> None:
    """Raise `ConfigError` unless code that scmf did not bring may run.

    Parameters
    ----------
    what
        The code that would run: files, classes.
    where
        What names it.
    """
    if not _trusted:
        raise ConfigError(
            f"code that scmf did not bring: {what}",
            wanted="code of this installation, or your word that this code may run",
            where=where,
            fix="read that code, then give --trust before the command: scmf --trust ...",
        )


def names(kind: str) -> list[str]:
    """Names known for ``kind``, sorted: built in, or brought by an installed distribution."""
    return sorted({*BUILT_IN[kind], *_entry_points(kind)})


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint ``did you mean 'x'? `` or the list of what is known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def check(kind: str, name: str) -> str:
    """The name by which ``kind`` knows ``name`` (an alias becomes what it stands for). Nothing is imported.

    Raises
    ------
    ConfigError
        The name is unknown, or stands for code from outside and `trust` was not called.
    """
    name = ALIASES.get(kind, {}).get(name, name)
    target = _target(kind, name)
    if target is None:
        raise ConfigError(
            f"{kind[:-1]} {name!r}",
            wanted=f"one of {', '.join(names(kind))}, or package.module:Class",
            fix=did_you_mean(name, [*names(kind), *ALIASES.get(kind, {})]),
        )
    if source := _outside(kind, name):
        require_trust(f"{kind[:-1]} {name!r}, which would run {target} {source}", where=kind)
    return name


def resolve(kind: str, name: str) -> Any:
    """Import and return the class that ``name`` stands for.

    Raises
    ------
    ConfigError
        As `check`; or code from outside cannot be imported.
    """
    name = check(kind, name)
    target = str(_target(kind, name))
    module, _, attribute = target.partition(":")
    if not _outside(kind, name):
        return getattr(importlib.import_module(module), attribute)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{kind[:-1]} {name!r}: {error}",
            wanted=f"{target} to be importable",
            where=kind,
            fix="install the package, or start where Python finds the module (PYTHONPATH)",
        ) from error


def options_class(kind: str, name: str) -> type | None:
    """The dataclass of options of what ``name`` stands for; None where it has none.

    Only a light file is imported for what is built in. A class from outside has them as its attribute ``Options``.
    """
    name = check(kind, name)
    if kind in OPTIONS and name in BUILT_IN[kind]:
        module, _, attribute = OPTIONS[kind].get(name, "").partition(":")
        return getattr(importlib.import_module(module), attribute) if module else None
    return getattr(resolve(kind, name), "Options", None)


def class_name(kind: str, name: str) -> str:
    """Name of the class that ``name`` stands for, without importing it or asking for trust."""
    return str(_target(kind, name)).partition(":")[2]


def _target(kind: str, name: str) -> str | None:
    """``module:Class`` of a name; None when it is unknown."""
    if name in BUILT_IN[kind]:
        return BUILT_IN[kind][name]
    if name in _entry_points(kind):
        return _entry_points(kind)[name].value
    return name if _DOTTED.fullmatch(name) else None


def _outside(kind: str, name: str) -> str:
    """Where code that scmf did not bring comes from, in words; empty for code of scmf."""
    if name in BUILT_IN[kind]:
        return ""
    point = _entry_points(kind).get(name)
    if point is None:
        return "from the Python path"
    if point.dist is not None and point.dist.name == DISTRIBUTION:
        return ""
    return f"of the distribution {point.dist.name if point.dist is not None else 'unknown'}"


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    """Name -> entry point of the group ``scmf.<kind>``; a name that is built in is not replaced."""
    return {point.name: point for point in entry_points(group=f"scmf.{kind}") if point.name not in BUILT_IN[kind]}
