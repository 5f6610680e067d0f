"""One file a model family, each readable from top to bottom, needing only torch and transformers."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "autoregressive_transformer": (
            "AutoregressiveTransformerForSequenceClassification AutoregressiveTransformerModel"
        ),
        "build": "build_model",
        "checkpoint": "load_run_model save_model",
        "configuration_autoregressive_transformer": "AutoregressiveTransformerConfig",
        "configuration_generative_transformer": "GenerativeTransformerConfig",
        "configuration_masked_autoencoder": "MaskedAutoencoderConfig",
        "configuration_transformer_encoder": "TransformerEncoderConfig",
        "embed": "classify_tokens embed_tokens on_device",
        "generative_transformer": "GenerativeTransformerForSequenceClassification GenerativeTransformerModel",
        "masked_autoencoder": "MaskedAutoencoderForSequenceClassification MaskedAutoencoderModel",
        "protocol": "Model",
        "published.cards": "list_models",
        "published.names": "FoundModel find_model",
        "run_folder": "RunFolder",
        "transformer_encoder": (
            "TransformerEncoderForMaskedLM TransformerEncoderForSequenceClassification "
            "TransformerEncoderForTokenClassification TransformerEncoderModel"
        ),
    },
)
