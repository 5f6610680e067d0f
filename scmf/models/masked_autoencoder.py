"""Masked autoencoder: the architecture of scFoundation (xTrimoGene), readable from top to bottom.

An encoder sees only the genes with a count, each as value embedding + gene embedding, and two tokens of read depth:
T, the depth to reach, and S, that of the cell. A decoder sees every gene of the vocabulary: what the encoder made of
the genes it saw, a mask for those to be predicted, an embedded zero for the others. It predicts the value of every
gene. Parameters and buffers carry the official names, so that official checkpoints load key for key.

Lives here: the network, the cell classifier, pooling of embeddings. Lives elsewhere: the configuration
(``configuration_masked_autoencoder.py``), masking and downsampling (``scmf.training.objectives``), official weights
(``scmf/models/published``). Both model files are copied into every checkpoint, which therefore loads without
scmf; they import only torch, transformers and the standard library.

Shape suffixes: B cells, L tokens of the encoder, M genes to be predicted, V genes and depth tokens, P positions of the
decoder, D width, H heads, K head size, R random features, N bins, C classes. ``input_ids`` is int64 (B, L),
``attention_mask`` is 1 for tokens and 0 for padding, ``values`` float (B, L).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy, leaky_relu, linear
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple

from .configuration_masked_autoencoder import MaskedAutoencoderConfig
from .masked_autoencoder_options import MaskedAutoencoderOptions

__all__ = [
    "MaskedAutoencoderConfig",
    "MaskedAutoencoderForSequenceClassification",
    "MaskedAutoencoderModel",
    "MaskedAutoencoderOutput",
    "MaskedAutoencoderPreTrainedModel",
]

IGNORED = -100
"""Id in ``target_ids`` where nothing is to be predicted."""

# --- values ---------------------------------------------------------------------------------------


class ValueEmbedding(nn.Module):
    """A value as a mixture of ``bin_num`` vectors, weighted by a small network (auto-discretisation)."""

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__()
        bins, width = config.bin_num, config.hidden_size
        self.alpha = config.bin_alpha
        self.mlp = nn.Linear(1, bins)
        self.mlp2 = nn.Linear(bins, bins)
        self.emb = nn.Embedding(bins, width)
        self.emb_mask = nn.Embedding(1, width)
        self.emb_pad = nn.Embedding(1, width)

    def weights(self, values: Tensor) -> Tensor:
        """Mixing weights, (...) -> (..., N), each row adding up to 1."""
        hidden = leaky_relu(self.mlp(values.unsqueeze(-1)), 0.1)
        return torch.softmax(self.alpha * hidden + self.mlp2(hidden), -1)

    def forward(self, values: Tensor, *, masked: Tensor, padding: Tensor) -> Tensor:
        """(...) and two bool masks (...) -> (..., D). Both special vectors take part always: a gradient of 0 is one."""
        x = linear(self.weights(values), self.emb.weight.T)
        x = torch.where(masked.unsqueeze(-1), self.emb_mask.weight[0], x)
        return torch.where(padding.unsqueeze(-1), self.emb_pad.weight[0], x)


# --- transformer ----------------------------------------------------------------------------------


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


class OutProjection(nn.Linear):
    """The closing projection of `SelfAttention`; its bias begins at 0."""


class SelfAttention(nn.Module):
    """Multi-head attention without mask of the future, with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, config: MaskedAutoencoderConfig, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False  # without this line sdpa is causal whenever no cell is padded
        self.head_dim, self.dropout = width // heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = OutProjection(width, width)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        projected = linear(x_BLD, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        query, key, value = (part.view(*part.shape[:2], -1, self.head_dim).transpose(1, 2) for part in projected)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        out_BLHK, _ = attention(self, query, key, value, mask, dropout=dropout, scaling=self.head_dim**-0.5)
        return self.out_proj(out_BLHK.reshape(x_BLD.shape))


class TransformerLayer(GradientCheckpointingLayer):
    """One layer with the names of ``nn.TransformerEncoderLayer``: normalized after each half, unless ``norm_first``."""

    def __init__(
        self, config: MaskedAutoencoderConfig, width: int, heads: int, ffn: int, dropout: float, attn_dropout: float
    ) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.self_attn = SelfAttention(config, width, heads, attn_dropout)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(dropout)

    def _widen(self, x_BLD: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x_BLD)))))

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if self.norm_first:
            x_BLD = x_BLD + self.dropout(self.self_attn(self.norm1(x_BLD), mask))
            return x_BLD + self._widen(self.norm2(x_BLD))
        x_BLD = self.norm1(x_BLD + self.dropout(self.self_attn(x_BLD, mask)))
        return self.norm2(x_BLD + self._widen(x_BLD))


class TransformerStack(nn.Module):
    """Transformer layers and a closing norm."""

    def __init__(
        self, config: MaskedAutoencoderConfig, width: int, depth: int, heads: int, ffn: int, dropout: float, attn: float
    ) -> None:
        super().__init__()
        self.config = config
        self.transformer_encoder = nn.ModuleList(
            TransformerLayer(config, width, heads, ffn, dropout, attn) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, first to last."""
        return self.transformer_encoder

    def forward(self, x_BLD: Tensor, real_BL: Tensor | None, *, n_layers: int | None = None) -> Tensor:
        """Run the first ``n_layers`` layers (None: all, and the closing norm), (B, L, D) -> (B, L, D)."""
        if real_BL is not None:  # a row without a token would be 0/0; what it gives is never read
            real_BL = real_BL | ~real_BL.any(1, keepdim=True)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=x_BLD, attention_mask=real_BL)
        for layer in self.layers[:n_layers]:
            x_BLD = layer(x_BLD, mask)
        return self.norm(x_BLD) if n_layers in (None, len(self.layers)) else x_BLD


# --- performer ------------------------------------------------------------------------------------


def random_features(n_features: int, head_dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Projection (R, K) of FAVOR+: blocks of orthogonal rows, each as long as a normal vector of K numbers."""
    blocks = []
    for start in range(0, n_features, head_dim):
        normal = torch.randn(head_dim, head_dim, generator=generator, device="cpu")
        blocks.append(torch.linalg.qr(normal).Q.T[: n_features - start])
    lengths = torch.randn(n_features, head_dim, generator=generator, device="cpu").norm(dim=1, keepdim=True)
    return torch.cat(blocks) * lengths


class FastAttention(nn.Module):
    """Softmax attention through positive random features (FAVOR+): cost linear in the number of positions."""

    projection_matrix: Tensor

    def __init__(self, head_dim: int, *, match_official: bool) -> None:
        super().__init__()
        self.match_official = match_official
        n_features = int(head_dim * math.log(head_dim))
        self.register_buffer("projection_matrix", torch.empty(n_features, head_dim))

    def redraw(self) -> None:
        """Draw the features anew, seeded by the old ones: all ranks of a run and a resumed run draw the same."""
        first, second = self.projection_matrix.flatten()[:2].float().cpu().view(torch.int32).tolist()
        generator = torch.Generator().manual_seed((first & 0x7FFFFFFF) << 31 | second & 0x7FFFFFFF)
        n_features, head_dim = self.projection_matrix.shape
        self.projection_matrix.copy_(random_features(n_features, head_dim, generator))

    def _features(self, x_BHPK: Tensor, keep_BP: Tensor | None, *, of_keys: bool) -> Tensor:
        """(B, H, P, K) -> (B, H, P, R); positive, 0 for keys that are not kept.

        What is subtracted before the exponential bounds it and cancels, but for the 1e-4. The official code takes the
        maximum over all keys of the batch, padding included; here it is that of the cell, so that no cell depends on
        its neighbors: what the official code gives for the cell alone.
        """
        n_features, head_dim = self.projection_matrix.shape
        x_BHPR = linear(x_BHPK * head_dim**-0.25, self.projection_matrix.to(x_BHPK.dtype))
        half_square_BHP1 = (x_BHPK**2).sum(-1, keepdim=True) / (2 * head_dim**0.5)
        if not of_keys:
            highest = x_BHPR.amax(-1, keepdim=True)
        elif self.match_official:
            highest = x_BHPR.amax()
        else:
            kept = x_BHPR if keep_BP is None else x_BHPR.masked_fill(~keep_BP[:, None, :, None], -math.inf)
            highest = kept.amax((1, 2, 3), keepdim=True)
            highest = torch.where(highest.isinf(), 0, highest)  # a cell without a kept key
        features = n_features**-0.5 * (torch.exp(x_BHPR - half_square_BHP1 - highest) + 1e-4)
        if of_keys and keep_BP is not None and not self.match_official:
            features = features.masked_fill(~keep_BP[:, None, :, None], 0)
        return features

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep_BP: Tensor | None) -> Tensor:
        """Attention of (B, H, P, K) queries over keys and values, in float32."""
        with torch.autocast(query.device.type, enabled=False):
            query_BHPR = self._features(query.float(), keep_BP, of_keys=False)
            key_BHPR = self._features(key.float(), keep_BP, of_keys=True)
            total_BHP1 = query_BHPR @ key_BHPR.sum(2).unsqueeze(-1)
            total_BHP1 = torch.where(total_BHP1 == 0, 1, total_BHP1)
            return (query_BHPR @ (key_BHPR.transpose(2, 3) @ value.float()) / total_BHP1).to(value.dtype)


class PerformerAttention(nn.Module):
    """Projections around `FastAttention`."""

    def __init__(self, width: int, heads: int, head_dim: int, dropout: float, *, match_official: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fast_attention = FastAttention(head_dim, match_official=match_official)
        self.to_q = nn.Linear(width, heads * head_dim)
        self.to_k = nn.Linear(width, heads * head_dim)
        self.to_v = nn.Linear(width, heads * head_dim)
        self.to_out = nn.Linear(heads * head_dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BPD: Tensor, keep_BP: Tensor | None) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        query, key, value = (
            project(x_BPD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        out_BHPK = self.fast_attention(query, key, value, keep_BP)
        return self.dropout(self.to_out(out_BHPK.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Widen, GELU, narrow."""

    def __init__(self, width: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, ffn)
        self.w2 = nn.Linear(ffn, width)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        return self.w2(self.dropout(self.activation(self.w1(x_BPD))))


class Named(nn.Module):
    """Only a name: a module under ``fn`` in official checkpoints."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *inputs: Any) -> Tensor:
        """What the module gives."""
        return self.fn(*inputs)


class Normed(Named):
    """Normalize, then the module under ``fn``."""

    def __init__(self, width: int, eps: float, fn: nn.Module) -> None:
        super().__init__(fn)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x_BPD: Tensor, *others: Any) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        return self.fn(self.norm(x_BPD), *others)


class PerformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each on normalized input with residual; children ``0`` and ``1`` as published."""

    def __init__(self, attention: Normed, feed_forward: Normed) -> None:
        super().__init__()
        self.add_module("0", attention)
        self.add_module("1", feed_forward)

    def forward(self, x_BPD: Tensor, keep_BP: Tensor | None) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        attention, feed_forward = self.children()
        x_BPD = x_BPD + attention(x_BPD, keep_BP)
        return x_BPD + feed_forward(x_BPD)


class PerformerNet(nn.Module):
    """Only a name: ``performer.net`` in official checkpoints."""

    def __init__(self, layers: list[PerformerLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Performer(nn.Module):
    """Performer layers, and the count of the passes after which their features are drawn anew."""

    calls_since_last_redraw: Tensor

    def __init__(self, layers: list[PerformerLayer], redraw_interval: int | None) -> None:
        super().__init__()
        self.redraw_interval = redraw_interval
        self.net = PerformerNet(layers)
        self.register_buffer("calls_since_last_redraw", torch.tensor(0))

    @torch.no_grad()
    def count_call(self) -> None:
        """Draw the features anew if their time has come; to be called before each forward pass."""
        if not self.training:
            return
        if self.redraw_interval is not None and int(self.calls_since_last_redraw) >= self.redraw_interval:
            for module in self.modules():
                if isinstance(module, FastAttention):
                    module.redraw()
            self.calls_since_last_redraw.zero_()
        else:
            self.calls_since_last_redraw += 1


class PerformerStack(nn.Module):
    """Performer layers and a closing norm."""

    def __init__(
        self, config: MaskedAutoencoderConfig, width: int, depth: int, heads: int, head_dim: int, ffn: int, drop: float
    ) -> None:
        super().__init__()
        self.match_official, eps = config.match_official, config.layer_norm_eps
        layers = []
        for _ in range(depth):
            attention = PerformerAttention(width, heads, head_dim, drop, match_official=config.match_official)
            feed_forward = Named(FeedForward(width, ffn, drop))
            layers.append(PerformerLayer(Normed(width, eps, attention), Normed(width, eps, feed_forward)))
        self.performer = Performer(layers, config.redraw_interval)
        self.norm = nn.LayerNorm(width, eps=eps)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, first to last."""
        return self.performer.net.layers

    def forward(self, x_BPD: Tensor, real_BP: Tensor | None, *, n_layers: int | None = None) -> Tensor:
        """Run the first ``n_layers`` layers (None: all, and the closing norm), (B, P, D) -> (B, P, D).

        Under ``match_official`` padding takes part in attention, as in the official code.
        """
        self.performer.count_call()
        for layer in self.layers[:n_layers]:
            x_BPD = layer(x_BPD, None if self.match_official else real_BP)
        return self.norm(x_BPD) if n_layers in (None, len(self.layers)) else x_BPD


def _encoder(config: MaskedAutoencoderConfig) -> TransformerStack | PerformerStack:
    width, depth, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    drop, ffn = config.hidden_dropout_prob, config.intermediate_size
    if config.encoder_type == "transformer":
        return TransformerStack(config, width, depth, heads, ffn, drop, config.attention_probs_dropout_prob)
    return PerformerStack(config, width, depth, heads, config.encoder_head_dim or width // heads, ffn, drop)


def _decoder(config: MaskedAutoencoderConfig) -> TransformerStack | PerformerStack:
    width, depth, heads = config.decoder_size, config.num_decoder_layers, config.num_decoder_heads
    drop, ffn = config.decoder_dropout_prob, config.decoder_intermediate_size or 4 * width
    if config.decoder_type == "transformer":
        return TransformerStack(config, width, depth, heads, ffn, drop, drop)
    return PerformerStack(config, width, depth, heads, config.decoder_head_dim or width // heads, ffn, drop)


# --- what transformers needs to know ---------------------------------------------------------------


class MaskedAutoencoderPreTrainedModel(PreTrainedModel):
    """Loading, saving, initialization, embeddings: common to the pretraining model and the cell classifier."""

    config: MaskedAutoencoderConfig
    config_class = MaskedAutoencoderConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch: let the HF Trainer divide them itself
    _no_split_modules = ["TransformerLayer", "PerformerLayer"]  # not the value embedding, whose mask the decoder reads
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    Options = MaskedAutoencoderOptions
    required_inputs = ("input_ids", "attention_mask", "values")
    """Tensors of a tokenizer's batch without which this family cannot run; it reads ``depth`` besides."""
    objectives = ("read_depth_aware",)
    """Objectives it can be trained under."""
    frozen_tensors: tuple[str, ...] = ()
    """Tensors that are given and not trained."""
    gives_attention, gives_gene_vectors, allows_knockout = False, False, False
    """Whether it gives attention, a vector of each gene in its cell, and the vectors of a cell without one gene."""

    @property
    def embedding_defaults(self) -> tuple[int, str]:
        """Layer and pooling of the official embeddings; without depth tokens the mean over genes."""
        return 0, "cell" if self.config.depth_token_ids is None else "all"

    def post_init(self) -> None:
        """Also: of the classes that stay whole when a network is sharded, keep those that this one has."""
        super().post_init()
        kept: Any = set(self._no_split_modules or ()) & {type(module).__name__ for module in self.modules()}
        self._no_split_modules = kept

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FastAttention):
            init.copy_(module.projection_matrix, random_features(*module.projection_matrix.shape))
        elif isinstance(module, Performer):
            init.zeros_(module.calls_since_last_redraw)
        elif self.config.initialization == "normal":
            super()._init_weights(module)
            if isinstance(module, SelfAttention):
                init.normal_(module.in_proj_weight, std=self.config.initializer_range)
                init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 0 if isinstance(module, OutProjection) else module.in_features**-0.5
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, SelfAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        else:
            super()._init_weights(module)  # norms

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save weights, configuration and code: a folder that every auto class loads without scmf."""
        if type(self)._auto_class is not None:
            self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)

    def freeze_first(self, n_layers: int, *, embeddings: bool = False) -> None:
        """Stop training the first ``n_layers`` layers of the encoder.

        Parameters
        ----------
        n_layers
            Layers to freeze, counted from the input.
        embeddings
            Freeze the embeddings of values and genes as well.

        Raises
        ------
        ValueError
            If there are not that many layers.
        """
        layers = self.base_model.encoder.layers
        if not 0 <= n_layers <= len(layers):
            raise ValueError(
                f"found: {n_layers} layers to freeze\nwanted: 0 to {len(layers)}\nwhere: freeze_first\n"
                "do: freeze no more layers than the model has"
            )
        tables = [self.base_model.token_emb, self.base_model.pos_emb] if embeddings else []
        for module in (*layers[:n_layers], *tables):
            module.requires_grad_(False)

    @torch.no_grad()
    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        *,
        layer: int = 0,
        pooling: str = "cell",
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells by the encoder, without gradient and without dropout.

        Parameters
        ----------
        input_ids, attention_mask, values
            Tokens (B, L), their mask and their values.
        layer
            0 is the output of the last layer with the closing norm (official), -1 the output of the layer before, and
            so on down to ``-num_hidden_layers``, the embeddings.
        pooling
            ``"all"`` (official default): S, T, the maximum and the mean over genes side by side, (B, 4D). ``"max"``:
            the maximum over tokens, S and T included (official), (B, D). ``"cell"``: the mean over genes, (B, D).
        **kwargs
            Other tensors of the batch, ignored.

        Raises
        ------
        ValueError
            If a cell has no gene or lacks T or S with ``"all"``, or the layer or the pooling does not exist.
        """
        depth = self.config.num_hidden_layers
        if not -depth <= layer <= 0:
            raise _refused(f"layer={layer}", f"0 (last layer) to {-depth} (embeddings)")
        if pooling not in ("all", "max", "cell"):
            raise _refused(f"pooling={pooling!r}", "'all', 'max' or 'cell'; this network has no <cls>")
        real_BL = real_tokens(self.config, input_ids, attention_mask, values)
        if pooling == "all":
            t_B, s_B, genes_BL = depth_positions(self.config, input_ids, real_BL)
        else:
            genes_BL = gene_positions(self.config, input_ids, real_BL)
        with _without_dropout(self):
            x_BLD = self.base_model.encode(input_ids, real_BL, values, n_layers=depth + layer)
        if pooling == "cell":
            return mean_over(x_BLD, genes_BL)
        if pooling == "max":
            return max_over(x_BLD, real_BL)
        rows = torch.arange(len(x_BLD), device=x_BLD.device)
        parts = (x_BLD[rows, s_B], x_BLD[rows, t_B], max_over(x_BLD, genes_BL), mean_over(x_BLD, genes_BL))
        return torch.cat(parts, 1)


def real_tokens(
    config: MaskedAutoencoderConfig, input_ids: Tensor, attention_mask: Tensor | None, values: Tensor | None
) -> Tensor:
    """Positions that are no padding, (B, L) bool; under ``match_official`` ``pad_value`` is padding too."""
    if values is None:
        raise ValueError(
            "found: no values\nwanted: values (B, L), as continuous or binned tokenizers give them\n"
            "where: inputs of the masked autoencoder\ndo: pass values=, or choose another tokenizer"
        )
    real_BL = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    return real_BL & (values != config.pad_value) if config.match_official else real_BL


def gene_positions(config: MaskedAutoencoderConfig, input_ids: Tensor, real_BL: Tensor) -> Tensor:
    """Positions that hold a gene: (B, L) bool, no padding, no T and S, no other special token.

    Raises
    ------
    ValueError
        If a cell has no gene.
    """
    special = [config.pad_token_id, config.cls_token_id, config.eos_token_id, config.mask_token_id]
    special += config.depth_token_ids or []
    genes_BL = real_BL.clone()
    for token in special:
        if token is not None:
            genes_BL &= input_ids != token
    _check_rows(genes_BL.any(1), "without a gene", "drop cells that express no gene of the vocabulary")
    return genes_BL


def depth_positions(
    config: MaskedAutoencoderConfig, input_ids: Tensor, real_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where T and S stand, (B,) each, and which positions are genes, (B, L).

    Under ``match_official`` the last two tokens are T and S, whatever they are (the official code loses an S of 0).

    Raises
    ------
    ValueError
        If the tokenizer has no such tokens, or a cell lacks one of them or has no gene.
    """
    if config.depth_token_ids is None:
        raise _refused(
            "pooling='all' with depth_token_ids=null",
            "a tokenizer with depth tokens (tokenizer.options.depth_tokens: true), or pooling 'cell' or 'max'",
        )
    if config.match_official:
        _check_rows(real_BL.sum(1) >= 3, "with fewer than three tokens", "drop cells with so few genes")
        place_BL = torch.where(real_BL, torch.arange(real_BL.shape[1], device=real_BL.device), -1)
        t_B, s_B = place_BL.topk(2).values.flip(1).unbind(1)
        genes_BL = real_BL & (place_BL < t_B.unsqueeze(1))
        return t_B, s_B, genes_BL
    t_BL, s_BL = (real_BL & (input_ids == token) for token in config.depth_token_ids)
    _check_rows(t_BL.any(1) & s_BL.any(1), "without T or S", "tokenize with depth_tokens: true")
    return t_BL.int().argmax(1), s_BL.int().argmax(1), gene_positions(config, input_ids, real_BL)


def mean_over(x_BLD: Tensor, chosen_BL: Tensor) -> Tensor:
    """Mean over the marked positions, (B, L, D) -> (B, D)."""
    return x_BLD.masked_fill(~chosen_BL.unsqueeze(-1), 0).sum(1) / chosen_BL.sum(1, keepdim=True)


def max_over(x_BLD: Tensor, chosen_BL: Tensor) -> Tensor:
    """Maximum over the marked positions, (B, L, D) -> (B, D)."""
    return x_BLD.masked_fill(~chosen_BL.unsqueeze(-1), -math.inf).amax(1)


def _check_rows(fine_B: Tensor, what: str, fix: str) -> None:
    wrong = (~fine_B).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"found: {len(wrong)} cells {what}\nwanted: genes, and T and S where they are asked for\n"
            f"where: rows {wrong[:10]} of the batch\ndo: {fix}"
        )


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
        f"found: {found}\nwanted: {wanted}\nwhere: embed of the masked autoencoder\n"
        "do: change the argument (eval.embedding_layer, eval.pooling)"
    )


# --- the model ------------------------------------------------------------------------------------


@dataclass
class MaskedAutoencoderOutput(ModelOutput):
    """What the network gives.

    Parameters
    ----------
    loss
        Mean squared error over the genes to be predicted; None without ``target_values``.
    predictions
        Predicted values: (B, M) of ``target_ids``, else (B, V) of ``decoder_ids``.
    last_hidden_state
        Output of the encoder (B, L, D).
    """

    loss: Tensor | None = None
    predictions: Tensor | None = None
    last_hidden_state: Tensor | None = None


class MaskedAutoencoderModel(MaskedAutoencoderPreTrainedModel):
    """Encoder, decoder and output layer.

    Parameters
    ----------
    config
        The configuration.
    with_decoder
        False leaves out what lies behind the encoder; a cell classifier does without.
    """

    def __init__(self, config: MaskedAutoencoderConfig, with_decoder: bool = True) -> None:
        super().__init__(config)
        self.token_emb = ValueEmbedding(config)
        self.pos_emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = _encoder(config)
        if with_decoder:
            self.decoder_embed = nn.Linear(config.hidden_size, config.decoder_size)
            self.decoder = _decoder(config)
            self.norm = nn.LayerNorm(config.decoder_size, eps=config.layer_norm_eps)
            self.to_final = nn.Linear(config.decoder_size, 1)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The gene embeddings."""
        return self.pos_emb

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the gene embeddings."""
        self.pos_emb = value

    @property
    def decoder_ids(self) -> Tensor:
        """Token ids of the V positions of the decoder: all genes and the depth tokens, ascending."""
        return self._ids(with_depth=True)

    @property
    def gene_ids(self) -> Tensor:
        """Token ids of all genes, ascending: the columns of `gene_embeddings` and `gene_expression`."""
        return self._ids(with_depth=False)

    def _ids(self, *, with_depth: bool) -> Tensor:
        config = self.config
        chosen = torch.zeros(config.vocab_size, dtype=torch.bool)
        chosen[config.gene_token_start :] = True
        special = (config.pad_token_id, config.cls_token_id, config.eos_token_id, config.mask_token_id)
        chosen[[token for token in special if token is not None]] = False
        chosen[config.depth_token_ids or []] = with_depth
        return chosen.nonzero().flatten().to(self.pos_emb.weight.device)

    def encode(
        self, input_ids: Tensor, real_BL: Tensor, values: Tensor | None, *, n_layers: int | None = None
    ) -> Tensor:
        """Embeddings and the first ``n_layers`` layers of the encoder (None: all), (B, L) -> (B, L, D)."""
        assert values is not None  # `real_tokens` has asked for them
        masked_BL = values == self.config.mask_value if self.config.match_official else torch.zeros_like(real_BL)
        x_BLD = self.token_emb(values, masked=masked_BL, padding=~real_BL) + self.pos_emb(input_ids)
        return self.encoder(x_BLD, real_BL, n_layers=n_layers)

    def decode(
        self,
        x_BLD: Tensor,
        input_ids: Tensor,
        real_BL: Tensor,
        *,
        target_ids: Tensor | None = None,
        target_hidden: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> Tensor:
        """Decoder over all genes: (B, L, D) -> (B, V, width of the decoder), positions as in `decoder_ids`.

        Genes that the encoder did not see are an embedded zero, those of ``target_ids`` under ``target_hidden`` the
        mask.
        """
        ids_V = self.decoder_ids
        n_places = len(ids_V)
        place_of_id = ids_V.new_full((self.config.vocab_size,), n_places)  # n_places: nowhere
        place_of_id[ids_V] = torch.arange(n_places, device=ids_V.device)
        zero_1D = self._values(x_BLD.new_zeros(1))
        y_VD = self.decoder_embed(zero_1D + self.pos_emb(ids_V))
        # One row more takes what has no place: padding, special tokens.
        y_BPD = torch.cat([y_VD, y_VD[:1]]).expand(len(x_BLD), -1, -1)
        if depth is not None and self.config.match_official and self.config.depth_token_ids is not None:
            depth_ids = torch.tensor(self.config.depth_token_ids, device=ids_V.device).expand(len(x_BLD), -1)
            own = self.decoder_embed(self._values(depth.to(x_BLD.dtype)) + self.pos_emb(depth_ids))
            y_BPD = _put(y_BPD, place_of_id[depth_ids], own)
        own_BLD = self.decoder_embed(x_BLD + self.pos_emb(input_ids))
        y_BPD = _put(y_BPD, torch.where(real_BL, place_of_id[input_ids], n_places), own_BLD)
        if target_ids is not None and target_hidden is not None:
            known_BM = target_ids.clamp(min=0)
            hidden_BM = target_hidden.bool() & (target_ids != IGNORED)
            own_BMD = self.decoder_embed(self.token_emb.emb_mask.weight[0] + self.pos_emb(known_BM))
            y_BPD = _put(y_BPD, torch.where(hidden_BM, place_of_id[known_BM], n_places), own_BMD)
        return self.norm(self.decoder(y_BPD[:, :n_places], None))

    def decode_masked(
        self, x_BLD: Tensor, input_ids: Tensor, real_BL: Tensor, target_ids: Tensor, target_hidden: Tensor
    ) -> Tensor:
        """Decoder over the encoder's genes and the targets alone: (B, M, width of the decoder), one row a target."""
        n_tokens, known_BM = input_ids.shape[1], target_ids.clamp(min=0)
        wanted_BM = target_ids != IGNORED
        inside = torch.zeros(self.config.vocab_size, dtype=torch.bool, device=input_ids.device)
        inside[self.decoder_ids] = True
        seen_BL = real_BL & inside[input_ids]
        # Where a gene stands among the encoder's tokens; -1: nowhere. The last column takes what is not seen.
        slot = input_ids.new_full((len(input_ids), self.config.vocab_size + 1), -1)
        places_L = torch.arange(n_tokens, device=input_ids.device).expand_as(input_ids)
        slot = slot.scatter(1, torch.where(seen_BL, input_ids, self.config.vocab_size), places_L)
        slot_BM = slot[:, :-1].gather(1, known_BM)
        hidden_BM1 = target_hidden.bool().unsqueeze(-1)
        zero_1D = self._values(x_BLD.new_zeros(1))
        targets_BMD = torch.where(hidden_BM1, self.token_emb.emb_mask.weight[0], zero_1D)
        y_BPD = torch.cat([x_BLD, targets_BMD.to(x_BLD.dtype)], 1)
        ids_BP = torch.cat([input_ids, known_BM], 1)
        keep_BP = torch.cat([seen_BL, wanted_BM & (slot_BM < 0)], 1)
        y_BPD = self.norm(self.decoder(self.decoder_embed(y_BPD + self.pos_emb(ids_BP)), keep_BP))
        new_M = n_tokens + torch.arange(target_ids.shape[1], device=input_ids.device)
        return _take(y_BPD, torch.where(slot_BM < 0, new_M, slot_BM))

    def _values(self, values: Tensor) -> Tensor:
        nothing = torch.zeros_like(values, dtype=torch.bool)
        return self.token_emb(values, masked=nothing, padding=nothing)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        depth: Tensor | None = None,
        target_ids: Tensor | None = None,
        target_values: Tensor | None = None,
        target_hidden: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedAutoencoderOutput:
        """Predict values of genes, and the loss where they are known.

        Parameters
        ----------
        input_ids, attention_mask, values
            What the encoder sees: tokens (B, L), their mask and their values.
        depth
            T and S (B, 2). Read under ``match_official`` alone, where the decoder sees an S that the encoder lost.
        target_ids
            Genes to be predicted, int64 (B, M), -100 in short rows. None: predict all of `decoder_ids`.
        target_values
            Their true values, float (B, M).
        target_hidden
            Bool (B, M): the decoder sees the mask there. Elsewhere it sees what the encoder made of the gene, or a
            zero if that did not see it. None: all are hidden.
        **kwargs
            Ignored: ``output_hidden_states`` and the like, other tensors of the batch.

        Returns
        -------
        MaskedAutoencoderOutput
            ``loss`` is the mean of squared differences over all targets of the batch; a batch without any has loss 0
            with zero gradients (NaN under ``match_official``).
        """
        real_BL = real_tokens(self.config, input_ids, attention_mask, values)
        x_BLD = self.encode(input_ids, real_BL, values)
        if target_ids is None:
            predictions_BV = self.to_final(self.decode(x_BLD, input_ids, real_BL, depth=depth)).squeeze(-1)
            return MaskedAutoencoderOutput(predictions=predictions_BV, last_hidden_state=x_BLD)
        if target_hidden is None:
            target_hidden = torch.ones_like(target_ids, dtype=torch.bool)
        if self.config.decode == "masked":
            y_BMD = self.decode_masked(x_BLD, input_ids, real_BL, target_ids, target_hidden)
        else:
            y_BVD = self.decode(
                x_BLD, input_ids, real_BL, target_ids=target_ids, target_hidden=target_hidden, depth=depth
            )
            y_BMD = _take(y_BVD, torch.searchsorted(self.decoder_ids, target_ids.clamp(min=0)))
        predictions_BM = self.to_final(y_BMD).squeeze(-1)
        loss = None
        if target_values is not None:
            wanted_BM = target_ids != IGNORED
            squares_BM = (predictions_BM.float() - target_values.float()).square().masked_fill(~wanted_BM, 0)
            count = wanted_BM.sum()
            loss = squares_BM.sum() / (count if self.config.match_official else count.clamp(min=1))
        return MaskedAutoencoderOutput(loss=loss, predictions=predictions_BM, last_hidden_state=x_BLD)

    @torch.no_grad()
    def gene_embeddings(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        depth: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Context embedding of every gene (official ``gene``): (B, genes, width of the decoder), as in `gene_ids`."""
        with _without_dropout(self):
            real_BL = real_tokens(self.config, input_ids, attention_mask, values)
            x_BLD = self.encode(input_ids, real_BL, values)
            y_BVD = self.decode(x_BLD, input_ids, real_BL, depth=depth)
        return y_BVD[:, torch.searchsorted(self.decoder_ids, self.gene_ids)]

    @torch.no_grad()
    def gene_expression(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        depth: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Predicted value of every gene at the depth that T asks for: (B, genes), as in `gene_ids`."""
        return self.to_final(self.gene_embeddings(input_ids, attention_mask, values, depth)).squeeze(-1)


def _put(y_BPD: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """``y`` with ``rows`` (B, L, D) at ``places`` (B, L)."""
    return y_BPD.scatter(1, places.unsqueeze(-1).expand_as(rows), rows)


def _take(y_BPD: Tensor, places: Tensor) -> Tensor:
    """Rows of ``y`` at ``places`` (B, M)."""
    return y_BPD.gather(1, places.unsqueeze(-1).expand(-1, -1, y_BPD.shape[-1]))


class MaskedAutoencoderForSequenceClassification(MaskedAutoencoderPreTrainedModel):
    """Cell classifier on the encoder: pooling, batch norm without parameters, two linear layers (official)."""

    _keys_to_ignore_on_load_unexpected = [r"(^|\.)(decoder_embed|decoder|norm|to_final)\.(?!running|num_batches)"]

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MaskedAutoencoderModel(config, with_decoder=False)
        self.norm = nn.BatchNorm1d(config.hidden_size, affine=False, eps=1e-6)
        self.fc1 = nn.Sequential(
            nn.Linear(config.hidden_size, config.classifier_size),
            nn.ReLU(),
            nn.Linear(config.classifier_size, config.num_labels),
        )
        self.post_init()

    def _pooled(self, x_BLD: Tensor, input_ids: Tensor, real_BL: Tensor) -> Tensor:
        if self.config.classifier_pooling == "first":
            return x_BLD[:, 0]
        if self.config.classifier_pooling == "mean":
            return mean_over(x_BLD, gene_positions(self.config, input_ids, real_BL))
        return x_BLD.amax(1) if self.config.match_official else max_over(x_BLD, real_BL)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Score the classes of each cell: logits (B, C); with ``labels`` (B,) also the mean cross entropy."""
        real_BL = real_tokens(self.config, input_ids, attention_mask, values)
        x_BD = self._pooled(self.model.encode(input_ids, real_BL, values), input_ids, real_BL).float()
        if len(x_BD) == 1:  # a batch of one cell has no variance of its own
            x_BD = batch_norm(x_BD, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            x_BD = self.norm(x_BD)
        logits_BC = self.fc1(x_BD)
        return SequenceClassifierOutput(
            loss=None if labels is None else cross_entropy(logits_BC.float(), labels), logits=logits_BC
        )


# --- auto classes ---------------------------------------------------------------------------------

_AUTO_CLASSES = {
    AutoModel: MaskedAutoencoderModel,
    AutoModelForPreTraining: MaskedAutoencoderModel,
    AutoModelForSequenceClassification: MaskedAutoencoderForSequenceClassification,
}
_AUTO_MAP = {"AutoConfig": f"configuration_masked_autoencoder.{MaskedAutoencoderConfig.__name__}"} | {
    auto.__name__: f"masked_autoencoder.{model.__name__}" for auto, model in _AUTO_CLASSES.items()
}
for _auto, _model in _AUTO_CLASSES.items():
    _model.register_for_auto_class(_auto.__name__)

# The copy of this file in a checkpoint leaves the tables of the process alone; the installed one is known there.
if __name__.startswith("scmf."):
    AutoConfig.register(MaskedAutoencoderConfig.model_type, MaskedAutoencoderConfig)
    for _auto, _model in _AUTO_CLASSES.items():
        _auto.register(MaskedAutoencoderConfig, _model)
