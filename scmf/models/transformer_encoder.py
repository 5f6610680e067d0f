"""Transformer encoder: the architecture of Geneformer V1 and V2, readable from top to bottom.

A post-LN BERT: token, learned absolute position (the rank of the gene) and token type embeddings, layers of
bidirectional attention and feed-forward, a masked-gene head tied to the token embeddings. Parameters carry
the names of BERT, so that official checkpoints load key for key.

Lives here: the network, its four heads, pooling of embeddings. Lives elsewhere: the configuration
(``configuration_transformer_encoder.py``), masking and the training loop (scmf.training), official weights
(``scmf/models/published``). Both model files are copied into every checkpoint, which therefore loads
without scmf; they import only torch, transformers and the standard library.

Shape suffixes: B cells, L positions, D hidden size, H heads, K head size, V vocabulary, M masked positions,
C classes. ``input_ids`` is int64 (B, L), ``attention_mask`` is 1 for tokens and 0 for padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_transformer_encoder import TransformerEncoderConfig
from .transformer_encoder_options import EncoderOptions

__all__ = [
    "TransformerEncoderConfig",
    "TransformerEncoderForMaskedLM",
    "TransformerEncoderForSequenceClassification",
    "TransformerEncoderForTokenClassification",
    "TransformerEncoderModel",
    "TransformerEncoderPreTrainedModel",
]

# --- the network ----------------------------------------------------------------------------------


class ValueEmbedding(nn.Module):
    """The ``values`` beside the tokens: two linear layers, or a table of bins (last row: all other values)."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_bins = config.n_value_bins
        if self.n_bins is None:
            self.inner, self.outer = nn.Linear(1, width), nn.Linear(width, width)
        else:
            self.bins = nn.Embedding(self.n_bins + 1, width)

    def forward(self, values: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        if self.n_bins is None:
            return self.outer(torch.relu(self.inner(values.to(self.inner.weight.dtype).unsqueeze(-1))))
        bins_BL = values.long()
        inside_BL = (bins_BL >= 0) & (bins_BL < self.n_bins)
        return self.bins(torch.where(inside_BL, bins_BL, self.n_bins))


class Embeddings(nn.Module):
    """Token + position + token type + value, normalized. Every token has type 0."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.longest = config.max_position_embeddings
        self.position_embeddings = nn.Embedding(self.longest, width) if config.use_positions else None
        self.value_embeddings = None if config.value_encoding == "none" else ValueEmbedding(config)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, values: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, L, D)."""
        length, longest = input_ids.shape[1], self.longest
        if length > longest:
            raise ValueError(
                f"found: cells of {length} tokens\nwanted: at most max_position_embeddings={longest}\n"
                "where: input_ids\ndo: crop the cells (max_length of the tokenizer) or build a longer model"
            )
        x_BLD = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        if self.position_embeddings is not None:
            # Position ids are made here and not kept as a buffer: there is nothing to save, load or initialize.
            x_BLD = x_BLD + self.position_embeddings(torch.arange(length, device=input_ids.device))
        if self.value_embeddings is not None:
            if values is None:
                raise ValueError(
                    "found: a batch without values\nwanted: values (B, L), which this model was built to read\n"
                    "where: forward of the transformer encoder\ndo: use the tokenizer that lies beside the weights"
                )
            x_BLD = x_BLD + self.value_embeddings(values)
        return self.dropout(self.LayerNorm(x_BLD))


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out; the kernel that can also return its probabilities (B, H, L, L)."""
    scores_BHLL = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores_BHLL = scores_BHLL + attention_mask
    weights_BHLL = nn.functional.dropout(scores_BHLL.softmax(-1), p=dropout, training=module.training)
    return (weights_BHLL @ value).transpose(1, 2).contiguous(), weights_BHLL


class SelfAttention(nn.Module):
    """Multi-head attention without mask of the future, through the attention interface of transformers."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False  # without this line sdpa is causal whenever no cell is padded
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) -> (B, L, D) and, from the eager kernel, the probabilities (B, H, L, L)."""
        heads_BLHK = (*x_BLD.shape[:2], -1, self.head_dim)
        query, key, value = (
            project(x_BLD).view(heads_BLHK).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        out_BLHK, weights = attention(self, query, key, value, mask, dropout=dropout, scaling=self.head_dim**-0.5)
        return out_BLHK.reshape(x_BLD.shape), weights


class AddAndNorm(nn.Module):
    """Project, add the residual, normalize: the end of both halves of a layer."""

    def __init__(self, config: TransformerEncoderConfig, in_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual_BLD: Tensor) -> Tensor:
        """(B, L, in_features), (B, L, D) -> (B, L, D)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual_BLD)


class AttentionBlock(nn.Module):
    """Attention with residual."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.output(self.self(x_BLD, mask)[0], x_BLD)


class FeedForwardIn(nn.Module):
    """The widening half of the feed-forward layer."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, intermediate size)."""
        return self.activation(self.dense(x_BLD))


class Layer(GradientCheckpointingLayer):
    """One transformer layer."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.attention = AttentionBlock(config)
        self.intermediate = FeedForwardIn(config)
        self.output = AddAndNorm(config, config.intermediate_size)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x_BLD = self.attention(x_BLD, mask)
        return self.output(self.intermediate(x_BLD), x_BLD)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_BLD: Tensor, mask: Tensor | None, *, n_layers: int) -> Tensor:
        """Run the first ``n_layers`` layers, (B, L, D) -> (B, L, D)."""
        for layer in self.layer[:n_layers]:
            x_BLD = layer(x_BLD, mask)
        return x_BLD


class Pooler(nn.Module):
    """One vector a cell through dense and tanh, as a cell classifier wants it."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BLD: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, D)."""
        if self.config.classifier_pooling == "first":
            pooled_BD = x_BLD[:, 0]
        else:
            pooled_BD = mean_over_genes(x_BLD, gene_positions(self.config, input_ids, attention_mask))
        return torch.tanh(self.dense(pooled_BD))


def gene_positions(config: TransformerEncoderConfig, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Positions that hold a gene: (B, L) bool, neither padding nor cls nor eos.

    Raises
    ------
    ValueError
        If a cell has no gene.
    """
    genes_BL = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    for special in (config.cls_token_id, config.eos_token_id):
        if special is not None:
            genes_BL = genes_BL & (input_ids != special)
    empty = (~genes_BL.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"found: {len(empty)} cells without a gene\nwanted: at least one gene a cell\n"
            f"where: rows {empty[:10]} of the batch\ndo: drop cells that express no gene of the vocabulary"
        )
    return genes_BL


def mean_over_genes(x_BLD: Tensor, genes_BL: Tensor) -> Tensor:
    """Mean over the marked positions, (B, L, D) -> (B, D)."""
    return (x_BLD * genes_BL.unsqueeze(-1)).sum(1) / genes_BL.sum(1, keepdim=True)


# --- what transformers needs to know ---------------------------------------------------------------


class TransformerEncoderPreTrainedModel(PreTrainedModel):
    """Loading, saving, initialization, embeddings: common to the base model and its heads."""

    config: TransformerEncoderConfig
    config_class = TransformerEncoderConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch: let the HF Trainer divide them itself
    _no_split_modules = ["Layer"]  # not the embeddings: FSDP must see their table and the decoder tied to it as one
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": Layer, "attentions": SelfAttention}
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids"]  # a buffer of old V1 checkpoints

    Options = EncoderOptions
    required_inputs = ("input_ids", "attention_mask")
    """Tensors of a tokenizer's batch that this family reads; it ignores the others."""
    objectives = ("masked_gene_prediction", "masked_value_prediction")
    """Names of the objectives it can be trained under."""
    frozen_tensors: tuple[str, ...] = ()
    """Tensors that are given and not trained."""
    embedding_defaults = (-1, "cell")
    """Layer and pooling of the official embeddings (V1)."""
    gives_attention, gives_gene_vectors, allows_knockout = True, True, True
    """Whether it gives attention, a vector of each gene in its cell, and the vectors of a cell without one gene."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # Linear, Embedding and LayerNorm; there are no buffers
        if isinstance(module, PredictionHead):
            init.zeros_(module.bias)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save weights, configuration and code: a folder that every auto class loads without scmf."""
        if type(self)._auto_class is not None:
            self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)

    def freeze_first(self, n_layers: int, *, embeddings: bool = False) -> None:
        """Stop training the first ``n_layers`` layers (the official ``freeze_layers``).

        Parameters
        ----------
        n_layers
            Layers to freeze, counted from the input.
        embeddings
            Freeze the embeddings as well. The official code leaves them trainable.

        Raises
        ------
        ValueError
            If there are not that many layers.
        """
        layers = self.base_model.encoder.layer
        if not 0 <= n_layers <= len(layers):
            raise ValueError(
                f"found: {n_layers} layers to freeze\nwanted: 0 to {len(layers)}\nwhere: freeze_first\n"
                "do: freeze no more layers than the model has"
            )
        for module in (*layers[:n_layers], *([self.base_model.embeddings] if embeddings else [])):
            module.requires_grad_(False)

    @torch.no_grad()
    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        *,
        layer: int = -1,
        pooling: str = "cell",
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells by the rules of the official ``EmbExtractor``, without gradient and without dropout.

        Parameters
        ----------
        input_ids, attention_mask, values
            Tokens (B, L), their mask and, for a model that reads them, their values.
        layer
            0 is the output of the last layer, -1 (official default) of the second to last, and so on down to
            ``-num_hidden_layers``, the embeddings. Layers above it are not computed.
        pooling
            ``"cell"``: mean over gene positions (padding, cls and eos excluded). ``"cls"``: the first position.
            ``"gene"``: no pooling.
        **kwargs
            Other tensors of the batch, ignored.

        Returns
        -------
        Tensor
            (B, D), or (B, L, D) with ``pooling="gene"``, where rows of padding hold no meaning.

        Raises
        ------
        ValueError
            If a cell has no gene, the layer or the pooling does not exist, or ``"cls"`` is asked of a model
            without such a token.
        """
        depth = self.config.num_hidden_layers
        if not -depth <= layer <= 0:
            raise _refused(f"layer={layer}", f"0 (last layer) to {-depth} (embeddings)")
        if pooling not in ("cell", "cls", "gene"):
            raise _refused(f"pooling={pooling!r}", "'cell', 'cls' or 'gene'")
        if pooling == "cls" and self.config.cls_token_id is None:
            raise _refused("pooling='cls' with cls_token_id=null", "a model whose cells begin with a cls token")
        genes_BL = gene_positions(self.config, input_ids, attention_mask)
        with _without_dropout(self):
            x_BLD = self.base_model.encode(input_ids, attention_mask, values, n_layers=depth + layer)
        if pooling == "gene":
            return x_BLD
        return x_BLD[:, 0] if pooling == "cls" else mean_over_genes(x_BLD, genes_BL)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets back the mode it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _refused(found: str, wanted: str) -> ValueError:
    return ValueError(
        f"found: {found}\nwanted: {wanted}\nwhere: embed of the transformer encoder\n"
        "do: change the argument, or load the model with the special token ids of its vocabulary"
    )


# --- base model and heads -------------------------------------------------------------------------


class TransformerEncoderModel(TransformerEncoderPreTrainedModel):
    """The encoder without a head.

    Parameters
    ----------
    config
        The configuration.
    add_pooling_layer
        Add dense and tanh on one vector a cell; only cell classifiers have weights for it.
    """

    def __init__(self, config: TransformerEncoderConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.embeddings.word_embeddings = value

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, values: Tensor | None = None, *, n_layers: int
    ) -> Tensor:
        """Embeddings and the first ``n_layers`` layers, (B, L) -> (B, L, D)."""
        x_BLD = self.embeddings(input_ids, values)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=x_BLD, attention_mask=attention_mask)
        return self.encoder(x_BLD, mask, n_layers=n_layers)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, values: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Run the encoder.

        ``output_hidden_states=True`` adds the embeddings and the output of every layer, (B, L, D) each;
        ``output_attentions=True`` the probabilities (B, H, L, L) of every layer (eager kernel only). Other
        tensors of a batch are ignored.
        """
        x_BLD = self.encode(input_ids, attention_mask, values, n_layers=self.config.num_hidden_layers)
        pooled_BD = None if self.pooler is None else self.pooler(x_BLD, input_ids, attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=x_BLD, pooler_output=pooled_BD)


class PredictionTransform(nn.Module):
    """Dense, activation and normalization before the decoder."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.LayerNorm(self.activation(self.dense(x)))


class PredictionHead(nn.Module):
    """A score for every token of the vocabulary; weight and bias of the decoder are tied."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.transform = PredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.decoder(self.transform(x))


class MaskedLMHead(nn.Module):
    """Only a name: ``cls.predictions`` in official checkpoints."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.predictions = PredictionHead(config)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.predictions(x)


class ValueHead(nn.Module):
    """One number at every position: the value that was hidden there."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__()
        self.transform = PredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        return self.decoder(self.transform(x)).squeeze(-1)


class TransformerEncoderForMaskedLM(TransformerEncoderPreTrainedModel):
    """Masked gene prediction: which gene holds this rank; for a model that reads values also which value was hidden."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__(config)
        self.bert = TransformerEncoderModel(config)
        self.cls = MaskedLMHead(config)
        if config.value_encoding != "none":
            self.value_head = ValueHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the decoder, and the bias tied to it."""
        self.cls.predictions.decoder = value
        self.cls.predictions.bias = value.bias

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_logits: bool | None = None,
        values: Tensor | None = None,
        target_values: Tensor | None = None,
        target_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict the token at every position, or the loss at masked ones.

        Parameters
        ----------
        input_ids, attention_mask, values
            Tokens (B, L), their mask and, for a model that reads them, their values.
        labels
            The true token where it was masked, -100 elsewhere, (B, L). The loss is the mean cross entropy over
            masked positions, and the head is run on those positions alone: at 15 % masked that is the same
            loss for a seventh of the largest tensor of the step. A batch without a masked position has loss 0
            with zero gradients.
        return_logits
            Return scores (B, L, V). Default: only when neither ``labels`` nor ``target_mask`` is given.
        target_values, target_mask
            True values (B, L) and where they were hidden, bool (B, L): the loss is the mean squared error there. Only
            for a model with ``value_encoding``.
        **kwargs
            ``output_hidden_states``, ``output_attentions``; other tensors of the batch are ignored.
        """
        outputs = self.bert(input_ids, attention_mask, values, **kwargs)
        x_BLD = outputs.last_hidden_state
        loss = logits = None
        if target_mask is not None:
            loss = self._value_loss(x_BLD, target_values, target_mask)
        if (labels is None and target_mask is None) or return_logits:
            logits = self.cls(x_BLD)
        if labels is not None:
            masked_BL = labels != -100
            scores_MV = self.cls(x_BLD[masked_BL]) if logits is None else logits[masked_BL]
            total = cross_entropy(scores_MV.float(), labels[masked_BL], reduction="sum")
            loss = total / max(len(scores_MV), 1)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _value_loss(self, x_BLD: Tensor, target_values: Tensor | None, target_mask: Tensor) -> Tensor:
        if self.config.value_encoding == "none" or target_values is None:
            raise ValueError(
                "found: hidden values to predict\nwanted: a model built with value_encoding, and target_values (B, L)\n"
                "where: forward of the transformer encoder\n"
                "do: set model.options.value_encoding, or train under masked_gene_prediction"
            )
        predicted_M = self.value_head(x_BLD[target_mask]).float()
        squared_M = (predicted_M - target_values[target_mask].float()) ** 2
        return squared_M.sum() / max(len(squared_M), 1)


class TransformerEncoderForSequenceClassification(TransformerEncoderPreTrainedModel):
    """Cell classifier: pooler (see ``classifier_pooling``), dropout, linear."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = TransformerEncoderModel(config, add_pooling_layer=True)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        values: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Score the classes of each cell: logits (B, C); with ``labels`` (B,) also the mean cross entropy."""
        outputs = self.bert(input_ids, attention_mask, values, **kwargs)
        logits_BC = self.classifier(self.dropout(outputs.pooler_output))
        return SequenceClassifierOutput(
            loss=None if labels is None else cross_entropy(logits_BC.float(), labels),
            logits=logits_BC,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TransformerEncoderForTokenClassification(TransformerEncoderPreTrainedModel):
    """Gene classifier: dropout and linear at every position."""

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = TransformerEncoderModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        values: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Score the classes of each gene: logits (B, L, C).

        With ``labels`` (B, L), -100 where a position is not judged, also the mean cross entropy.
        """
        outputs = self.bert(input_ids, attention_mask, values, **kwargs)
        logits_BLC = self.classifier(self.dropout(outputs.last_hidden_state))
        return TokenClassifierOutput(
            loss=None if labels is None else cross_entropy(logits_BLC.flatten(0, 1).float(), labels.flatten()),
            logits=logits_BLC,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _classifier_dropout(config: TransformerEncoderConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


# --- auto classes ---------------------------------------------------------------------------------

_AUTO_CLASSES = {
    AutoModel: TransformerEncoderModel,
    AutoModelForMaskedLM: TransformerEncoderForMaskedLM,
    AutoModelForPreTraining: TransformerEncoderForMaskedLM,
    AutoModelForSequenceClassification: TransformerEncoderForSequenceClassification,
    AutoModelForTokenClassification: TransformerEncoderForTokenClassification,
}
_AUTO_MAP = {"AutoConfig": f"configuration_transformer_encoder.{TransformerEncoderConfig.__name__}"} | {
    auto.__name__: f"transformer_encoder.{model.__name__}" for auto, model in _AUTO_CLASSES.items()
}
for _auto, _model in _AUTO_CLASSES.items():
    _model.register_for_auto_class(_auto.__name__)

# The copy of this file in a checkpoint leaves the tables of the process alone; the installed one is known there.
if __name__.startswith("scmf."):
    AutoConfig.register(TransformerEncoderConfig.model_type, TransformerEncoderConfig)
    for _auto, _model in _AUTO_CLASSES.items():
        _auto.register(TransformerEncoderConfig, _model)
