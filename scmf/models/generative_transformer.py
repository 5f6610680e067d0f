"""Generative transformer: the architecture of scGPT, readable from top to bottom.

A token is a gene and its value; there are no positions. Post-LN layers attend in both directions. In generative
training a cell is split: *perceived* genes come with their values and see each other, *generated* genes come without
and see the perceived ones and themselves. A decoder predicts a value from each token, a second one (MVC) from the cell
embedding and the gene alone. Parameters carry the names of the official network (without flash attention), so that
official checkpoints load key for key.

Lives here: the network, its heads and losses, pooling, generation. Lives elsewhere: the configuration
(``configuration_generative_transformer.py``), what is hidden and the training loop (scmf.training), official weights
(``scmf/models/published``). Both model files are copied into every checkpoint, which therefore loads without scmf;
they import only torch, transformers and the standard library.

Shape suffixes: B cells, L perceived positions, G generated positions, T = L + G, D hidden size, H heads, K head size,
M predicted positions, C classes, N batches. ``input_ids`` is int64 (B, L), ``attention_mask`` is 1 for tokens and 0
for padding, ``values`` is float (B, L).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .configuration_generative_transformer import GenerativeTransformerConfig
from .generative_transformer_options import GenerativeOptions

__all__ = [
    "GenerativeTransformerConfig",
    "GenerativeTransformerForSequenceClassification",
    "GenerativeTransformerModel",
    "GenerativeTransformerOutput",
    "GenerativeTransformerPreTrainedModel",
]

BATCH_NORM_EPS = 6.1e-5
"""Epsilon of batch normalization: the smallest normal number of float16, rounded."""

# --- tokens ---------------------------------------------------------------------------------------


class TokenTable(nn.Module):
    """A table of vectors and layer normalization: genes, bins of values, batches."""

    def __init__(self, rows: int, config: GenerativeTransformerConfig, padding: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, config.hidden_size, padding_idx=padding)
        self.enc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return self.enc_norm(self.embedding(ids))


class GeneVectors(nn.Embedding):
    """A table that starts uniform, see ``_init_weights``."""


class GeneEncoder(TokenTable):
    """Vectors of genes. The row of padding is random as every row, and is not trained."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__(config.vocab_size, config, config.pad_token_id)
        self.embedding = GeneVectors(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)


class ContinuousValueEncoder(nn.Module):
    """Values through two linear layers; hidden (-1) and padding (-2) go through as numbers."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__()
        self.max_value = config.max_value
        self.linear1 = nn.Linear(1, config.hidden_size)
        self.linear2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, values: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        x_BL1 = values.to(self.linear1.weight.dtype).unsqueeze(-1).clamp(max=self.max_value)
        return self.dropout(self.norm(self.linear2(torch.relu(self.linear1(x_BL1)))))


class CategoryValueEncoder(TokenTable):
    """Values as rows of a table: digits, then padding, then hidden. Negative values are hidden or padding."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        assert config.n_value_bins is not None
        super().__init__(config.n_value_bins, config, config.value_pad_id)
        self.mask_value, self.rows = config.mask_value, config.n_value_bins
        self.pad_row = self.rows - 2 if config.value_pad_id is None else config.value_pad_id

    def forward(self, values: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        rows_BL = torch.where(values < 0, self.pad_row, values.long())
        return super().forward(torch.where((values == self.mask_value) & (values < 0), self.rows - 1, rows_BL))


class BatchNorms(nn.Module):
    """One batch normalization a batch, without scale and offset (the official affine switch cannot be reached)."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__()
        self.bns = nn.ModuleList(
            nn.BatchNorm1d(config.hidden_size, eps=BATCH_NORM_EPS, affine=False) for _ in range(config.num_batches)
        )


# --- layers ---------------------------------------------------------------------------------------


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
    """Attention written out; the kernel that can also return its probabilities (B, H, T, T)."""
    scores_BHTT = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores_BHTT = scores_BHTT.masked_fill(~attention_mask, torch.finfo(scores_BHTT.dtype).min)
    weights_BHTT = nn.functional.dropout(scores_BHTT.softmax(-1), p=dropout, training=module.training)
    return (weights_BHTT @ value).transpose(1, 2).contiguous(), weights_BHTT


class OutputProjection(nn.Linear):
    """A linear layer that starts without offset, see ``_init_weights``."""


class SelfAttention(nn.Module):
    """Multi-head attention with the parameters of ``nn.MultiheadAttention``: query, key, value are one matrix."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False  # without this line sdpa is causal whenever no cell is padded
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = OutputProjection(width, width)

    def forward(self, x_BTD: Tensor, mask: Tensor | None, n_perceived: int) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and, from the eager kernel, the probabilities (B, H, T, T)."""
        qkv_BT3HK = nn.functional.linear(x_BTD, self.in_proj_weight, self.in_proj_bias)
        query, key, value = qkv_BT3HK.view(*x_BTD.shape[:2], 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        out_BTHK, weights = attention(self, query, key, value, mask, dropout=dropout, scaling=self.head_dim**-0.5)
        out_BTD = out_BTHK.reshape(x_BTD.shape)
        if self.config.generated_out_proj or n_perceived == x_BTD.shape[1]:
            return self.out_proj(out_BTD), weights
        perceived, generated = out_BTD[:, :n_perceived], out_BTD[:, n_perceived:]
        projected = self.out_proj(perceived)
        return torch.cat([projected, generated.to(projected.dtype)], 1), weights


class Layer(GradientCheckpointingLayer):
    """One transformer layer: attention and feed-forward, each added to its input and then normalized."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = SelfAttention(config)
        self.linear1 = nn.Linear(width, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x_BTD: Tensor, mask: Tensor | None, n_perceived: int) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and the probabilities of the attention, where the kernel gives them."""
        attended_BTD, weights = self.self_attn(x_BTD, mask, n_perceived)
        x_BTD = self.norm1(x_BTD + self.dropout(attended_BTD))
        inner = self.dropout(self.activation(self.linear1(x_BTD)))
        return self.norm2(x_BTD + self.dropout(self.linear2(inner))), weights


class LayerStack(nn.Module):
    """Only a name: ``transformer_encoder.layers`` in official checkpoints."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


def who_sees_whom(perceived_BL: Tensor | None, generated_BG: Tensor | None) -> Tensor | None:
    """What each query may attend to: bool (B, 1, 1 or T, T), True where it may; None where everything may.

    Perceived tokens see the perceived ones; a generated token sees the perceived ones and itself.
    """
    if perceived_BL is None or (generated_BG is None and bool(perceived_BL.all())):
        return None
    if generated_BG is None:
        return perceived_BL.bool()[:, None, None, :]
    keys_BT = torch.cat([perceived_BL.bool(), torch.zeros_like(generated_BG, dtype=torch.bool)], 1)
    n_perceived, n_all = perceived_BL.shape[1], keys_BT.shape[1]
    position_T = torch.arange(n_all, device=keys_BT.device)
    itself_TT = (position_T[:, None] == position_T) & (position_T >= n_perceived)
    return (keys_BT[:, None, :] | itself_TT)[:, None]


# --- heads ----------------------------------------------------------------------------------------


class ExpressionDecoder(nn.Module):
    """A value from a token; with ``explicit_zero_prob`` also the logit of its not being zero."""

    def __init__(self, config: GenerativeTransformerConfig, in_features: int) -> None:
        super().__init__()
        self.fc = _three_layers(in_features, config.hidden_size)
        self.zero_logit = _three_layers(in_features, config.hidden_size) if config.explicit_zero_prob else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(..., D) -> (...) and (...)."""
        probs = None if self.zero_logit is None else torch.sigmoid(self.zero_logit(x).squeeze(-1))
        return self.fc(x).squeeze(-1), probs


class AffineDecoder(nn.Module):
    """Factor and offset of given values: what a perturbation makes of them."""

    def __init__(self, config: GenerativeTransformerConfig, in_features: int) -> None:
        super().__init__()
        self.coeff_decoder = ExpressionDecoder(config, in_features)
        self.bias_decoder = ExpressionDecoder(config, in_features)
        self.activation = ACT2FN[config.decoder_activation] if config.decoder_activation else nn.Identity()
        self.adaptive_bias, self.match_official = config.decoder_adaptive_bias, config.match_official

    def forward(self, x_BLD: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) and (B, L) -> (B, L) and (B, L). Without a non-zero value the mean is 0 (match_official: NaN)."""
        (factor_BL, probs_BL), (offset_BL, _) = self.coeff_decoder(x_BLD), self.bias_decoder(x_BLD)
        factor_BL, offset_BL = self.activation(factor_BL), self.activation(offset_BL)
        if self.adaptive_bias:
            count_B1 = (values != 0).sum(1, keepdim=True)
            mean_B1 = values.sum(1, keepdim=True) / (count_B1 if self.match_official else count_B1.clamp(min=1))
            offset_BL = offset_BL * mean_B1
        return factor_BL * values + offset_BL, probs_BL


class CellValueDecoder(nn.Module):
    """MVC: the value of a gene from the cell embedding and the vector of the gene, which has seen no other gene.

    ``inner product``: cell . W sigmoid(Q gene); ``concat query`` and ``sum query``: two layers on both.
    """

    def __init__(self, config: GenerativeTransformerConfig, cell_features: int) -> None:
        super().__init__()
        width, self.style = config.hidden_size, config.mvc
        self.W_zero_logit = None
        if self.style == "concat query":
            self.gene2query, self.fc1 = nn.Linear(width, 64), nn.Linear(width + 64, 64)
        elif self.style == "sum query":
            self.gene2query, self.fc1 = nn.Linear(width, width), nn.Linear(width, 64)
        else:
            self.gene2query, self.W = nn.Linear(width, width), nn.Linear(width, cell_features, bias=False)
            if config.explicit_zero_prob:
                self.W_zero_logit = nn.Linear(width, cell_features)
        if self.style in ("concat query", "sum query"):
            self.hidden_activation, self.fc2 = nn.PReLU(), nn.Linear(64, 1)

    def forward(self, cell: Tensor, genes: Tensor) -> tuple[Tensor, Tensor | None]:
        """(..., D) and (..., D) -> (...) and (...); ``cell`` is spread over the positions of ``genes``."""
        query = torch.sigmoid(self.gene2query(genes.detach() if self.style == "inner product, detach" else genes))
        if self.style == "concat query":
            both = torch.cat([cell.expand(*query.shape[:-1], -1), query], -1)
            return self.fc2(self.hidden_activation(self.fc1(both))).squeeze(-1), None
        if self.style == "sum query":
            return self.fc2(self.hidden_activation(self.fc1(cell + query))).squeeze(-1), None
        probs = None
        if self.W_zero_logit is not None:
            probs = torch.sigmoid((self.W_zero_logit(query) * cell).sum(-1))
        return (self.W(query) * cell).sum(-1), probs


class ClassDecoder(nn.Module):
    """Linear layers with activation and normalization between them, then one to the classes."""

    def __init__(
        self, config: GenerativeTransformerConfig, n_classes: int, *, layers: int, leaky: bool = False
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self._decoder = nn.ModuleList()
        for _ in range(layers - 1):
            activation = nn.LeakyReLU() if leaky else nn.ReLU()
            self._decoder.extend([nn.Linear(width, width), activation, nn.LayerNorm(width, eps=config.layer_norm_eps)])
        self.out_layer = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        for module in self._decoder:
            x = module(x)
        return self.out_layer(x)


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class BatchAdversary(ClassDecoder):
    """DAB: names the batch from the cell embedding, which is trained against it (the gradient changes its sign)."""

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__(config, config.num_batches, layers=3, leaky=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, N)."""
        return super().forward(_ReverseGradient.apply(x))


def _three_layers(in_features: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
    )


# --- losses ---------------------------------------------------------------------------------------


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error at the marked positions: sum m (p - t)^2 / sum m. NaN without any."""
    mask = mask.to(torch.float32)
    return (((predicted.float() - target.float()) * mask) ** 2).sum() / mask.sum()


def masked_relative_error(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of |p - t| / (t + 1e-6) at the marked positions; shown in official logs, never a loss."""
    mask, target = mask.to(torch.float32), target.float()
    return ((predicted.float() - target).abs() / (target + 1e-6) * mask).sum() / mask.sum()


def negative_log_bernoulli(probs: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of -log p(target > 0) at the marked positions; probabilities are kept off 0 and 1 as torch does."""
    mask = mask.to(torch.float32)
    zero_or_not = torch.distributions.Bernoulli(probs=probs.float(), validate_args=False)
    return -(zero_or_not.log_prob((target > 0).float()) * mask).sum() / mask.sum()


def elastic_similarity(cell_BD: Tensor, threshold: float) -> Tensor:
    """ECS: mean over the (B, B) matrix of 1 - (relu(cos_ij) - threshold)^2, where the diagonal counts as 0."""
    unit_BD = normalize(cell_BD.float(), dim=1)
    similar_BB = (unit_BD @ unit_BD.T).masked_fill(torch.eye(len(unit_BD), device=unit_BD.device).bool(), 0.0)
    return (1 - (torch.relu(similar_BB) - threshold) ** 2).mean()


def contrastive_loss(one_BD: Tensor, other_BD: Tensor) -> Tensor:
    """CCE (SimCSE): cross entropy of finding a cell again after another pass with dropout, temperature 0.5."""
    similar_BB = cosine_similarity(one_BD.float().unsqueeze(1), other_BD.float().unsqueeze(0), dim=-1) / 0.5
    return cross_entropy(similar_BB, torch.arange(len(similar_BB), device=similar_BB.device))


# --- what transformers needs to know ---------------------------------------------------------------


@dataclass
class GenerativeTransformerOutput(ModelOutput):
    """What a pass gives; None where the network has no such head or it was not asked for.

    Parameters
    ----------
    loss, losses
        The weighted sum of all terms, and the terms by name without their weights.
    predictions, zero_probs
        Value of each position, and the probability of its not being zero, (B, T).
    mvc_predictions, mvc_zero_probs
        The same from the cell embedding.
    second_predictions
        Values of the generated genes when the cell embedding stands at the first position, (B, G).
    cell_embedding, class_logits, batch_logits
        (B, D), (B, C), (B, N).
    last_hidden_state, hidden_states, attentions
        (B, T, D); embeddings and every layer; probabilities of every layer (eager kernel).
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    predictions: Tensor | None = None
    zero_probs: Tensor | None = None
    mvc_predictions: Tensor | None = None
    mvc_zero_probs: Tensor | None = None
    second_predictions: Tensor | None = None
    cell_embedding: Tensor | None = None
    class_logits: Tensor | None = None
    batch_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Cells:
    """What a pass reads; the tensors are explained in `GenerativeTransformerModel.forward`."""

    input_ids: Tensor
    attention_mask: Tensor | None = None
    values: Tensor | None = None
    generated_ids: Tensor | None = None
    generated_mask: Tensor | None = None
    batch_ids: Tensor | None = None
    pert_flags: Tensor | None = None

    @property
    def perceived_BL(self) -> Tensor:
        """1 at perceived tokens, 0 at padding."""
        return torch.ones_like(self.input_ids) if self.attention_mask is None else self.attention_mask

    @property
    def generated_BG(self) -> Tensor | None:
        """1 at generated tokens, 0 at padding; None without any."""
        if self.generated_ids is None or self.generated_mask is not None:
            return self.generated_mask
        return torch.ones_like(self.generated_ids)

    @property
    def batches_B(self) -> Tensor:
        """The batch of each cell; ``ValueError`` where it is not given."""
        if self.batch_ids is None:
            raise _problem(
                "no batch_ids", "the batch of each cell, which this model reads", "a batch", "give data.batch_key"
            )
        return self.batch_ids


@dataclass(frozen=True)
class Encoded:
    """What the layers make of cells: tokens, the vectors of the genes alone, (B, T, D) each, and what was kept."""

    x_BTD: Tensor
    genes_BTD: Tensor
    states: tuple[Tensor, ...] | None
    weights: tuple[Tensor, ...] | None


class GenerativeTransformerPreTrainedModel(PreTrainedModel):
    """Loading, saving, initialization, embeddings: common to the network and its classifier."""

    config: GenerativeTransformerConfig
    config_class = GenerativeTransformerConfig
    base_model_prefix = "scgpt"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch: let the HF Trainer divide them itself
    _no_split_modules = ["Layer"]
    _supports_sdpa = True
    _supports_attention_backend = True

    Options = GenerativeOptions
    required_inputs: tuple[str, ...] = ("input_ids", "attention_mask", "values")
    """Tensors of a tokenizer's batch that this family reads; it ignores the others."""
    objectives: tuple[str, ...] = ("generative_value_prediction", "masked_value_prediction")
    """Names of the objectives it can be trained under."""
    frozen_tensors: tuple[str, ...] = ()
    """Tensors that are given and not trained."""
    embedding_defaults = (0, "cell")
    """Layer and pooling of the official embeddings."""
    gives_attention, gives_gene_vectors, allows_knockout = True, True, True
    """Whether it gives attention, a vector of each gene in its cell, and the vectors of a cell without one gene."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torch initializes each module (and so the official network), gene vectors uniform."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 0.0 if isinstance(module, OutputProjection) else module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, GeneVectors):
            init.uniform_(module.weight, -self.config.initializer_range, self.config.initializer_range)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
            if module.affine:
                init.ones_(module.weight)
                init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, SelfAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)

    @classmethod
    def can_generate(cls) -> bool:
        """No text: ``generate`` gives values."""
        return False

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save weights, configuration and code: a folder that every auto class loads without scmf."""
        if type(self)._auto_class is not None:
            self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)

    def freeze_first(self, n_layers: int, *, embeddings: bool = False) -> None:
        """Stop training the first ``n_layers`` layers and, if asked, the encoders of genes and values.

        Raises
        ------
        ValueError
            If there are not that many layers.
        """
        network = self.base_model
        layers = network.transformer_encoder.layers
        if not 0 <= n_layers <= len(layers):
            raise _problem(
                f"{n_layers} layers to freeze", f"0 to {len(layers)}", "freeze_first", "freeze no more than there are"
            )
        below = [network.encoder, network.value_encoder] if embeddings else []
        for module in (*layers[:n_layers], *below):
            module.requires_grad_(False)

    @torch.no_grad()
    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        *,
        batch_ids: Tensor | None = None,
        pert_flags: Tensor | None = None,
        layer: int = 0,
        pooling: str = "cell",
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells by the rule of the official ``embed_data``, without gradient and without dropout.

        Parameters
        ----------
        input_ids, attention_mask, values, batch_ids, pert_flags
            A batch, as in `GenerativeTransformerModel.forward`.
        layer
            0 is the output of the last layer (official), -1 of the second to last, and so on down to
            ``-num_hidden_layers``, the embeddings. Layers above it are not computed.
        pooling
            ``"cell"``: the cell embedding of the configuration; ``"cls"``: the first position; both divided by
            their length, as in the official code. ``"gene"``: no pooling.
        **kwargs
            Other tensors of the batch, ignored.

        Returns
        -------
        Tensor
            (B, D), or (B, L, D) with ``pooling="gene"``, where rows of padding hold no meaning.

        Raises
        ------
        ValueError
            If the layer or the pooling does not exist, a cell has no gene, or the first position is asked for and is
            not ``<cls>``.
        """
        depth, where = self.config.num_hidden_layers, "embed of the generative transformer"
        if not -depth <= layer <= 0:
            wanted = f"0 (last layer) to {-depth} (embeddings)"
            raise _problem(f"layer={layer}", wanted, where, "change the argument")
        if pooling not in ("cell", "cls", "gene"):
            raise _problem(f"pooling={pooling!r}", "'cell', 'cls' or 'gene'", where, "change the argument")
        mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        gene_positions(self.config, input_ids, mask_BL)
        style = "cls" if pooling == "cls" else self.config.cell_embedding
        if pooling != "gene" and style == "cls":
            cls = self.config.cls_token_id
            if cls is None or bool((input_ids[:, 0] != cls).any()):
                raise _problem(
                    "cells that do not begin with <cls>" if cls is not None else "cls_token_id=null",
                    "cells that begin with <cls>, whose position is the cell embedding",
                    where,
                    "set tokenizer.special_tokens: true, or model.options.cell_embedding: avg-pool",
                )
        with _without_dropout(self):
            cells = Cells(input_ids, mask_BL, values, batch_ids=batch_ids, pert_flags=pert_flags)
            encoded = self.base_model.encode(cells, n_layers=depth + layer)
        if pooling == "gene":
            return encoded.x_BTD
        return normalize(pool_cells(self.config, encoded.x_BTD, values, mask_BL, style=style).float(), dim=1)


def gene_positions(config: GenerativeTransformerConfig, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Positions that hold a gene: (B, L) bool, neither padding nor cls; ``ValueError`` for a cell without one."""
    genes_BL = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if config.cls_token_id is not None:
        genes_BL = genes_BL & (input_ids != config.cls_token_id)
    if empty := (~genes_BL.any(1)).nonzero().flatten().tolist():
        raise _problem(
            f"{len(empty)} cells without a gene",
            "at least one gene a cell",
            f"rows {empty[:10]} of the batch",
            "drop cells that express no gene of the vocabulary",
        )
    return genes_BL


def pool_cells(
    config: GenerativeTransformerConfig, x_BTD: Tensor, values: Tensor | None, mask_BT: Tensor | None, *, style: str
) -> Tensor:
    """One vector a cell, (B, T, D) -> (B, D), of length 1 with ``w-pool``.

    Padding does not count, nor does a hidden value, whose weight would be negative. Under ``match_official`` both do,
    as in
    the official code.
    """
    if style == "cls":
        return x_BTD[:, 0]
    mask_BT1 = torch.ones_like(x_BTD[..., :1]) if mask_BT is None else mask_BT.unsqueeze(-1).to(x_BTD.dtype)
    if style == "avg-pool":
        return x_BTD.mean(1) if config.match_official else (x_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
    if values is None or values.shape != x_BTD.shape[:2]:
        raise _problem(
            "positions without a value",
            "a value at every position, which w-pool weighs them by",
            "cell_embedding 'w-pool'",
            "choose model.options.cell_embedding 'cls' or 'avg-pool' for generative training",
        )
    weights_BT1 = values.unsqueeze(-1).to(x_BTD.dtype)
    return normalize(
        (x_BTD * (weights_BT1 if config.match_official else weights_BT1.clamp(min=0) * mask_BT1)).sum(1), dim=1
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


def _problem(found: str, wanted: str, where: str, fix: str) -> ValueError:
    return ValueError(f"found: {found}\nwanted: {wanted}\nwhere: {where}\ndo: {fix}")


# --- the network and its classifier ----------------------------------------------------------------


class GenerativeTransformerModel(GenerativeTransformerPreTrainedModel):
    """The network with the heads its configuration asks for.

    Parameters
    ----------
    config
        The configuration.
    add_heads
        Build what predicts values and batches, and the flag of generated genes; a classifier needs none of it.
    """

    def __init__(self, config: GenerativeTransformerConfig, add_heads: bool = True) -> None:
        super().__init__(config)
        encoders = {"continuous": ContinuousValueEncoder, "category": CategoryValueEncoder}
        width, labeled = config.hidden_size, 2 if config.batch_labels else 1
        self.encoder = GeneEncoder(config)
        self.value_encoder = encoders.get(config.value_encoder, lambda _: nn.Identity())(config)
        if config.perturbations:
            self.pert_encoder = nn.Embedding(3, width, padding_idx=config.perturbation_pad_id)
        if config.batch_norm == "per_batch":
            self.dsbn = BatchNorms(config)
        elif config.batch_norm == "shared":
            self.bn = nn.BatchNorm1d(width, eps=BATCH_NORM_EPS)
        self.transformer_encoder = LayerStack(config)
        self.decoder: Any = None
        self.mvc_decoder: CellValueDecoder | None = None
        if add_heads:
            if config.generative:
                self.flag_encoder = nn.Embedding(2, width)
            if config.batch_labels:
                self.batch_encoder = TokenTable(config.num_batches, config)
            head = AffineDecoder if config.decoder == "affine" else ExpressionDecoder
            self.decoder = head(config, labeled * width)
            if config.n_classes:
                self.cls_decoder = ClassDecoder(config, config.n_classes, layers=config.classifier_layers)
            if config.mvc is not None:
                self.mvc_decoder = CellValueDecoder(config, labeled * width)
            if config.dab_weight:
                self.grad_reverse_discriminator = BatchAdversary(config)
        self.gradient_checkpointing = False
        self.post_init()
        if config.match_official:
            self._copy_first_layer()

    @torch.no_grad()
    def _copy_first_layer(self) -> None:
        """The official stack is made of copies of one layer, which all start from the same weights."""
        first, *others = self.transformer_encoder.layers
        if self.encoder.embedding.weight.device.type != "meta":
            for layer in others:
                layer.load_state_dict(first.state_dict())

    def get_input_embeddings(self) -> nn.Embedding:
        """The gene embeddings."""
        return self.encoder.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the gene embeddings."""
        self.encoder.embedding = value

    def encode(
        self,
        cells: Cells,
        *,
        cell_embedding: Tensor | None = None,
        n_layers: int | None = None,
        without_values: bool = False,
        keep: bool = False,
    ) -> Encoded:
        """Embeddings and the first ``n_layers`` layers (None: all).

        ``cell_embedding`` (B, D) stands in place of the first token; ``without_values`` embeds genes alone; ``keep``
        keeps the state after each layer, and the probabilities of the attention.
        """
        config, generated_BG = self.config, cells.generated_BG
        genes_BTD = self.encoder(cells.input_ids)
        x_BTD = self._batch_norm(self._with_values(genes_BTD, cells, without_values), cells.perceived_BL, cells)
        if cell_embedding is not None:
            x_BTD = torch.cat([cell_embedding.to(x_BTD.dtype).unsqueeze(1), x_BTD[:, 1:]], 1)
        if generated_BG is not None:
            if not config.generative:
                raise _problem(
                    "genes to generate", "generative=true", "config.json", "set model.options.generative: true"
                )
            genes_BGD = self.encoder(cells.generated_ids)
            x_BGD = self._batch_norm(genes_BGD + self.flag_encoder.weight[1], generated_BG, cells)
            genes_BTD, x_BTD = torch.cat([genes_BTD, genes_BGD], 1), torch.cat([x_BTD, x_BGD], 1)
        attended = who_sees_whom(cells.attention_mask if generated_BG is None else cells.perceived_BL, generated_BG)
        states, weights = [x_BTD], []
        for layer in self.transformer_encoder.layers[:n_layers]:
            x_BTD, probabilities = layer(x_BTD, attended, cells.input_ids.shape[1])
            if keep:
                states.append(x_BTD)
                weights += [] if probabilities is None else [probabilities]
        if generated_BG is None and n_layers in (None, config.num_hidden_layers) and self._zeroes_padding():
            x_BTD = x_BTD * cells.perceived_BL.unsqueeze(-1).to(x_BTD.dtype)
        return Encoded(x_BTD, genes_BTD, tuple(states) if keep else None, tuple(weights) if keep else None)

    def _with_values(self, genes_BLD: Tensor, cells: Cells, without_values: bool) -> Tensor:
        """Genes with their values and, where the network reads them, flags of perturbation."""
        x_BLD = genes_BLD
        if cells.values is not None:
            encoded = self.value_encoder(cells.values)
            scaling = self.config.value_encoder == "scaling"
            x_BLD = genes_BLD * encoded.unsqueeze(-1).to(genes_BLD.dtype) if scaling else genes_BLD + encoded
        elif not without_values:
            raise _problem(
                "a batch without values",
                "values (B, L), which this model reads",
                "forward of the generative transformer",
                "use the tokenizer that lies beside the weights",
            )
        if self.config.perturbations:
            if cells.pert_flags is None:
                raise _problem(
                    "no pert_flags", "0, 1 or 2 at each position", "a batch", "say which genes are perturbed"
                )
            x_BLD = x_BLD + self.pert_encoder(cells.pert_flags)
        return x_BLD

    def _zeroes_padding(self) -> bool:
        """True where torch's fast path, which the official network takes, would write zeros at padding."""
        return (
            self.config.match_official
            and not self.training
            and not torch.is_grad_enabled()
            and self.config.num_attention_heads % 2 == 0
            and torch.backends.mha.get_fastpath_enabled()
        )

    def _batch_norm(self, x_BLD: Tensor, mask_BL: Tensor, cells: Cells) -> Tensor:
        """Each cell by the statistics of its batch, over tokens that are not padding.

        Under ``match_official`` padding counts, and the batch of the first cell is taken for all.
        """
        if self.config.batch_norm is None:
            return x_BLD
        if self.config.batch_norm == "shared":
            chosen = [(self.bn, mask_BL.bool())]
        else:
            batch_B = cells.batches_B
            found = batch_B[:1].tolist() if self.config.match_official else batch_B.unique().tolist()
            chosen = [(self.dsbn.bns[i], mask_BL.bool() & (batch_B == i)[:, None]) for i in found]
        if self.config.match_official:
            return chosen[0][0](x_BLD.transpose(1, 2)).transpose(1, 2)
        out_BLD = x_BLD.clone()
        for norm, positions_BL in chosen:
            tokens_MD = x_BLD[positions_BL]
            if len(tokens_MD) > 1 or not norm.training:
                out_BLD[positions_BL] = norm(tokens_MD).to(out_BLD.dtype)
        return out_BLD

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        *,
        generated_ids: Tensor | None = None,
        generated_mask: Tensor | None = None,
        batch_ids: Tensor | None = None,
        pert_flags: Tensor | None = None,
        target_values: Tensor | None = None,
        target_mask: Tensor | None = None,
        cell_labels: Tensor | None = None,
        dab_labels: Tensor | None = None,
        second_pass: Tensor | bool = False,
        return_predictions: bool | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> GenerativeTransformerOutput:
        """Predict the value at every position, or the loss at the marked ones.

        Parameters
        ----------
        input_ids, attention_mask, values
            Perceived tokens (B, L), their mask and their values; hidden values hold ``config.mask_value``.
        generated_ids, generated_mask
            Genes to generate (B, G), and 1 where they are genes, 0 where they are padding.
        batch_ids
            Batch of each cell (B,), for models with batch labels, batch normalization a batch, or DAB.
        pert_flags
            0, 1 (perturbed) or 2 at each position, for models with ``perturbations``.
        target_values, target_mask
            True values, and where they are predicted: (B, G) with generated genes, else (B, L). The loss is the sum
            of masked mean squared errors and of the other terms of the configuration.
        cell_labels, dab_labels
            Classes of the cells (B,); what DAB is to name, if not ``batch_ids``.
        second_pass
            Predict the generated genes once more, from the detached cell embedding in place of the first token, and
            add that error.
        return_predictions
            Return values at all positions. Default: only when ``target_values`` is None; else the heads are run at
            the marked positions alone.
        output_hidden_states, output_attentions
            Return the state after each layer; the probabilities of the attention.
        **kwargs
            Other tensors of the batch are ignored.
        """
        config = self.config
        cells = Cells(input_ids, attention_mask, values, generated_ids, generated_mask, batch_ids, pert_flags)
        encoded = self.encode(cells, keep=output_hidden_states or output_attentions)
        cell_BD = self._cell_embedding(encoded, cells)
        output = GenerativeTransformerOutput(
            cell_embedding=cell_BD,
            last_hidden_state=encoded.x_BTD,
            hidden_states=encoded.states if output_hidden_states else None,
            attentions=encoded.weights if output_attentions else None,
        )
        losses: dict[str, Tensor] = {}
        if target_values is None or return_predictions:
            self._predict_everywhere(output, encoded, cells)
        if target_values is not None:
            target_mask = torch.ones_like(target_values) if target_mask is None else target_mask
            losses |= self._value_losses(encoded, cell_BD, cells, target_values, target_mask.bool())
        if bool(second_pass) and generated_ids is not None:
            again = self.encode(cells, cell_embedding=cell_BD.detach())
            output.second_predictions = self._predict(again.x_BTD[:, input_ids.shape[1] :], cells)[0]
            if target_values is not None and target_mask is not None:
                error = masked_mse(output.second_predictions, target_values, target_mask)
                losses["gen"] = self._or_zero(error, target_mask)
        if config.n_classes:
            output.class_logits = self.cls_decoder(cell_BD)
            if cell_labels is not None:
                losses["cls"] = cross_entropy(output.class_logits.float(), cell_labels)
        if config.dab_weight:
            output.batch_logits = self.grad_reverse_discriminator(cell_BD)
            if target_values is not None:
                named_B = cells.batches_B if dab_labels is None else dab_labels
                losses["dab"] = cross_entropy(output.batch_logits.float(), named_B)
        if config.ecs_threshold:
            losses["ecs"] = elastic_similarity(cell_BD, config.ecs_threshold)
        if config.cce_weight:
            losses["cce"] = contrastive_loss(cell_BD, self._cell_embedding(self.encode(cells), cells))
        output.losses = losses or None
        if target_values is not None or cell_labels is not None:
            weights = {"ecs": config.ecs_weight, "dab": config.dab_weight, "cce": config.cce_weight}
            output.loss = torch.stack([value * weights.get(name, 1.0) for name, value in losses.items()]).sum()
        return output

    def _cell_embedding(self, encoded: Encoded, cells: Cells) -> Tensor:
        """Cell embeddings (B, D), of what was perceived (match_official: of generated tokens too)."""
        x_BTD = encoded.x_BTD if self.config.match_official else encoded.x_BTD[:, : cells.input_ids.shape[1]]
        return pool_cells(self.config, x_BTD, cells.values, cells.attention_mask, style=self.config.cell_embedding)

    def _predict(self, x: Tensor, cells: Cells, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Values and probabilities from tokens (B, T, D), or from (M, D) of the cells ``rows`` (M,)."""
        if self.config.batch_labels:
            batch_BD = self.batch_encoder(cells.batches_B).to(x.dtype)
            batch = batch_BD.unsqueeze(1) if rows is None else batch_BD[rows]
            x = torch.cat([x, batch.expand(*x.shape[:-1], -1)], -1)
        return self.decoder(x, cells.values) if self.config.decoder == "affine" else self.decoder(x)

    def _predict_from_cells(
        self, cell: Tensor, genes: Tensor, cells: Cells, rows: Tensor | None = None
    ) -> tuple[Any, Tensor | None]:
        """The same from cell embeddings (B, 1, D) or (M, D) and the vectors of the genes."""
        if self.mvc_decoder is None:
            return None, None
        if self.config.batch_labels:
            batch_BD = self.batch_encoder(cells.batches_B).to(cell.dtype)
            cell = torch.cat([cell, batch_BD.unsqueeze(1) if rows is None else batch_BD[rows]], -1)
        return self.mvc_decoder(cell, genes)

    def _predict_everywhere(self, output: GenerativeTransformerOutput, encoded: Encoded, cells: Cells) -> None:
        """Write values and probabilities of all positions into ``output``."""
        output.predictions, output.zero_probs = self._predict(encoded.x_BTD, cells)
        cell_B1D = self._cell_embedding(encoded, cells).unsqueeze(1)
        output.mvc_predictions, output.mvc_zero_probs = self._predict_from_cells(cell_B1D, encoded.genes_BTD, cells)

    def _value_losses(
        self, encoded: Encoded, cell_BD: Tensor, cells: Cells, target_values: Tensor, marked: Tensor
    ) -> dict[str, Tensor]:
        """The terms at the marked positions: of the generated genes where there are any, else of the perceived."""
        first = 0 if cells.generated_ids is None else cells.input_ids.shape[1]
        x_BTD, genes_BTD = (x[:, first : first + marked.shape[1]] for x in (encoded.x_BTD, encoded.genes_BTD))
        rows_M, truth_M = marked.nonzero()[:, 0], target_values[marked]
        ones_M = torch.ones_like(truth_M)
        if self.config.decoder == "affine":  # it reads the values of the whole cell
            predicted_BT, probs_BT = self._predict(x_BTD, cells)
            predicted, probs = predicted_BT[marked], None if probs_BT is None else probs_BT[marked]
        else:
            predicted, probs = self._predict(x_BTD[marked], cells, rows_M)
        losses = {"mse": masked_mse(predicted, truth_M, ones_M)}
        if probs is not None:
            losses["nzlp"] = negative_log_bernoulli(probs, truth_M, ones_M)
        if self.mvc_decoder is not None:
            from_cells, probs = self._predict_from_cells(cell_BD[rows_M], genes_BTD[marked], cells, rows_M)
            losses["mvc"] = masked_mse(from_cells, truth_M, ones_M)
            if probs is not None:
                losses["mvc_nzlp"] = negative_log_bernoulli(probs, truth_M, ones_M)
        return {name: self._or_zero(loss, marked) for name, loss in losses.items()}

    def _or_zero(self, loss: Tensor, marked: Tensor) -> Tensor:
        """0 with zero gradients where no position is marked (official, and so under ``match_official``: NaN)."""
        return loss if self.config.match_official or bool(marked.any()) else torch.nan_to_num(loss * 0.0)

    @torch.no_grad()
    def generate(
        self,
        cell_embedding: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        batch_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Values of genes from a cell embedding, in one pass: (B, D) and genes (B, L) -> (B, L).

        The embedding stands in place of the first token (``<cls>``). With ``values`` the genes are seen with them.
        """
        cells = Cells(input_ids, attention_mask, values, batch_ids=batch_ids)
        with _without_dropout(self):
            encoded = self.encode(cells, cell_embedding=cell_embedding, without_values=values is None)
            return self._predict(encoded.x_BTD, cells)[0]

    @torch.no_grad()
    def predict_perturbed(
        self, gene_ids: Tensor, values: Tensor, pert_flags: Tensor, *, expressed_only: bool = False,
        sample_zeros: bool = False
    ) -> Tensor:  # fmt: skip
        """Values after a perturbation, (B, L) (official ``pred_perturb``).

        Parameters
        ----------
        gene_ids
            Tokens of the genes, int64 (L,).
        values, pert_flags
            Values of control cells, and 1 where a gene is perturbed, (B, L).
        expressed_only
            Give the network only genes that one of the cells expresses (official ``batch-wise``); the others stay 0.
        sample_zeros
            Multiply each value by a draw of its not being zero, as the official code always does; for networks with
            ``explicit_zero_prob``.
        """
        given = (values != 0).any(0) if expressed_only else torch.ones_like(gene_ids, dtype=torch.bool)
        predicted_BL = torch.zeros_like(values)
        with _without_dropout(self):
            output = self(
                gene_ids[given].expand(len(values), -1), values=values[:, given], pert_flags=pert_flags[:, given]
            )
        found_BM = output.predictions
        if sample_zeros and output.zero_probs is not None:
            found_BM = torch.bernoulli(output.zero_probs) * found_BM
        predicted_BL[:, given] = found_BM.to(values.dtype)
        return predicted_BL


class GenerativeTransformerForSequenceClassification(GenerativeTransformerPreTrainedModel):
    """Cell classifier: the first position or the mean over genes (``classifier_pooling``), then the official head."""

    _keys_to_ignore_on_load_unexpected = [
        r"^(scgpt\.)?(decoder|mvc_decoder|cls_decoder|flag_encoder|batch_encoder|grad_reverse_discriminator)\."
    ]

    def __init__(self, config: GenerativeTransformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scgpt = GenerativeTransformerModel(config, add_heads=False)
        self.classifier = ClassDecoder(config, config.num_labels, layers=config.classifier_layers)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        batch_ids: Tensor | None = None,
        pert_flags: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Score the classes of each cell: logits (B, C); with ``labels`` (B,) also the mean cross entropy."""
        cells = Cells(input_ids, attention_mask, values, batch_ids=batch_ids, pert_flags=pert_flags)
        encoded = self.scgpt.encode(cells, keep=output_hidden_states or output_attentions)
        if self.config.classifier_pooling == "first":
            pooled_BD = encoded.x_BTD[:, 0]
        else:
            genes_BL1 = gene_positions(self.config, input_ids, attention_mask).unsqueeze(-1)
            pooled_BD = (encoded.x_BTD * genes_BL1).sum(1) / genes_BL1.sum(1)
        logits_BC = self.classifier(pooled_BD)
        return SequenceClassifierOutput(
            loss=None if labels is None else cross_entropy(logits_BC.float(), labels),
            logits=logits_BC,
            hidden_states=encoded.states if output_hidden_states else None,
            attentions=encoded.weights if output_attentions else None,
        )


# --- auto classes ---------------------------------------------------------------------------------

_AUTO_CLASSES = {
    AutoModel: GenerativeTransformerModel,
    AutoModelForPreTraining: GenerativeTransformerModel,
    AutoModelForSequenceClassification: GenerativeTransformerForSequenceClassification,
}
_AUTO_MAP = {"AutoConfig": f"configuration_generative_transformer.{GenerativeTransformerConfig.__name__}"} | {
    auto.__name__: f"generative_transformer.{model.__name__}" for auto, model in _AUTO_CLASSES.items()
}
for _auto, _model in _AUTO_CLASSES.items():
    _model.register_for_auto_class(_auto.__name__)

# The copy of this file in a checkpoint leaves the tables of the process alone; the installed one is known there.
if __name__.startswith("scmf."):
    AutoConfig.register(GenerativeTransformerConfig.model_type, GenerativeTransformerConfig)
    for _auto, _model in _AUTO_CLASSES.items():
        _auto.register(GenerativeTransformerConfig, _model)
