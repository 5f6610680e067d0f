"""What everything may use: errors, files, configuration, the registry of names, provenance, processes."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "config.data": "CensusConfig DataConfig FilterConfig StreamConfig",
        "config.model": "ModelConfig",
        "config.recipe": "Recipe list_recipes load_recipe",
        "config.run": "EvalConfig RunConfig",
        "config.tokenizer": "TokenizerConfig",
        "config.training": "FinetuneConfig TrainingConfig",
        "errors": (
            "ChecksumError ConfigError CountsError DataError EvaluationError GeneError MissingExtraError "
            "ModelError ResourceError ScmfError SourceError TrainingError"
        ),
        "registry": "options_class trust trusted",
    },
)
