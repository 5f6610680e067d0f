"""Autoregressive transformer: the architecture of TranscriptFormer, readable from top to bottom.

A cell is read as ``[assay, START, gene_1, ..., gene_n]``, each gene with its count. At every position two heads
predict the next gene and the count of that gene. There are no positions: attention is causal, and a key weighs more
the higher its count, by ``ln(1 + count)`` added to its score. Genes enter as given, frozen vectors (of a protein
language model, in the official weights) through a small network. Parameters carry the official names, so that official
checkpoints load key for key.

Lives here: the network, its two heads, their losses, embeddings, generation of cells, a cell classifier. Lives
elsewhere: the configuration (``configuration_autoregressive_transformer.py``), targets and the training loop
(scmf.training), official weights (``scmf/models/published``). Both model files are copied into every
checkpoint, which therefore loads without scmf; they import only torch, transformers and the standard library.

Shape suffixes: B cells, L genes of the longest cell, A assay positions (0 or 1), R rows = 1 + L (START and genes),
S = A + R positions, Q queries, K keys, D hidden size, H heads, E head size, V rows of the tables, N predictions.
``input_ids`` is int64 (B, L) and holds genes alone; ``values`` float32 (B, L) holds their counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, scaled_dot_product_attention, softplus
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
from transformers.utils.generic import ModelOutput, can_return_tuple

from .autoregressive_transformer_options import AutoregressiveOptions
from .configuration_autoregressive_transformer import AutoregressiveTransformerConfig

__all__ = [
    "END",
    "AutoregressiveTransformerConfig",
    "AutoregressiveTransformerForSequenceClassification",
    "AutoregressiveTransformerModel",
    "AutoregressiveTransformerOutput",
    "AutoregressiveTransformerPreTrainedModel",
]

IGNORED = -100
"""Label of a row that predicts nothing."""
END = -1
"""Label of a row after which the cell ends, whatever row the end token has in the tables."""

_QUERIES = 512
"""Queries whose scores are held at once, so that memory grows with the length and not with its square."""
_SCORES_ON_CPU = 2**22
"""Scores of all cells and heads that a CPU holds at once: larger temporaries cost more pages than arithmetic."""

# --- arithmetic -----------------------------------------------------------------------------------


def capped(x: Tensor, cap: float | None) -> Tensor:
    """``cap * tanh(x / cap)``: almost ``x`` near 0, never beyond ``cap``."""
    return x if cap is None else cap * torch.tanh(x / cap)


def count_nll(mu_N: Tensor, counts_N: Tensor, *, likelihood: str, eps: float, max_count: float | None) -> Tensor:
    """Negative log likelihood of counts, in nats.

    With z = mu + eps and c the count, kept between eps and ``max_count``::

        -c ln(z) + norm(z) + lgamma(c + 1)

        zero_truncated    norm(z) = ln(e^z - 1) = z + ln(1 - e^-z)    counts of 1 and more
        softplus_approx   norm(z) = max(z - softplus(-z), 0)          the official approximation: a sign is flipped
        poisson           norm(z) = z                                 counts of 0 and more

    Returns
    -------
    Tensor
        (N,).
    """
    z_N = mu_N + eps
    counts_N = counts_N.clamp(min=eps, max=max_count)
    if likelihood == "zero_truncated":
        norm_N = z_N + torch.log(-torch.expm1(-z_N))
    elif likelihood == "softplus_approx":
        norm_N = torch.relu(z_N - softplus(-z_N))
    else:
        norm_N = z_N
    return norm_N - counts_N * torch.log(z_N) + torch.lgamma(counts_N + 1)


def sample_counts(mu: Tensor, *, eps: float = 1e-6, generator: torch.Generator | None = None) -> Tensor:
    """Draw from the zero-truncated Poisson distribution.

    The first event of a Poisson process is drawn given that it comes within ``mu``; the others follow as usual.
    """
    mu = mu.clamp(min=eps)
    none = torch.exp(-mu)
    share = torch.rand(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    first = -torch.log(none + share * (1 - none))
    return 1 + torch.poisson((mu - first).clamp(min=0), generator=generator)


def next_genes(input_ids: Tensor, genes_BL: Tensor, *, longest: int, match_official: bool = False) -> Tensor:
    """What every row predicts: the gene after START, the gene after the first gene, and so on.

    Parameters
    ----------
    input_ids, genes_BL
        Tokens (B, L) and where they are genes (bool).
    longest
        Most genes of a cell. A cell that fills it may have been cut, so that nothing is known of its end.
    match_official
        The official rule: END takes the place of gene ``longest``, and no other cell has an end.

    Returns
    -------
    Tensor
        int64 (B, 1 + L): a token, `END` after the last gene, `IGNORED` where nothing is predicted.
    """
    labels_BR = torch.nn.functional.pad(input_ids.masked_fill(~genes_BL, IGNORED), (0, 1), value=IGNORED)
    n_genes_B, length = genes_BL.sum(1), input_ids.shape[1]
    if match_official:
        if length == longest:
            labels_BR[:, -2] = labels_BR[:, -2].masked_fill(genes_BL[:, -1], END)
        return labels_BR
    rows_L = torch.arange(1, length + 1, device=input_ids.device)
    last_B1 = torch.where(genes_BL, rows_L, 0).amax(1, keepdim=True) if length else torch.zeros_like(n_genes_B)[:, None]
    return labels_BR.scatter(1, last_B1, torch.where(n_genes_B < longest, END, IGNORED)[:, None])


# --- the network ----------------------------------------------------------------------------------


class Keys(NamedTuple):
    """What attention knows of the keys.

    Parameters
    ----------
    log_counts_BK
        ``ln(1 + count + eps)``.
    valid_BK
        False where nothing is to be read: padding, an unknown assay.
    own_count
        Whether a query sees its own count too: in embeddings, not in training (both official).
    """

    log_counts_BK: Tensor
    valid_BK: Tensor
    own_count: bool

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Bias (B, Q, K) and readable keys (B, Q, K) of the queries at positions ``first`` to ``last - 1``."""
        keys_K = torch.arange(last, device=self.valid_BK.device)
        queries_Q1 = torch.arange(first, last, device=keys_K.device)[:, None]
        bias_BQK = self.log_counts_BK[:, None, :last].expand(-1, last - first, -1)
        if not self.own_count:
            bias_BQK = bias_BQK.masked_fill(keys_K == queries_Q1, 0.0)
        return bias_BQK, self.valid_BK[:, None, :last] & (keys_K <= queries_Q1)


def attend(
    query_BHQE: Tensor,
    key_BHKE: Tensor,
    value_BHKE: Tensor,
    keys: Keys,
    *,
    softcap: float | None,
    drop: float,
    fused: bool,
) -> Tensor:
    """Causal attention with a bias for the counts of the keys.

    Without a softcap the bias is a dense mask for the fused kernel; with one the scores are written out, for a
    block of queries at a time. The last query stands at the last key. A query without a readable key gets zeros.
    """
    scale, n_keys = query_BHQE.shape[-1] ** -0.5, key_BHKE.shape[2]
    offset, blocks, at_once = n_keys - query_BHQE.shape[2], [], _QUERIES
    if query_BHQE.device.type == "cpu":
        at_once = min(at_once, max(1, _SCORES_ON_CPU // (query_BHQE.shape[:2].numel() * n_keys)))
    for start in range(offset, n_keys, at_once):
        stop = min(start + at_once, n_keys)
        bias_BQK, readable_BQK = keys.rows(start, stop)
        query = query_BHQE[:, :, start - offset : stop - offset]
        key, value = key_BHKE[:, :, :stop], value_BHKE[:, :, :stop]
        if fused and softcap is None:
            mask = bias_BQK.to(query.dtype).masked_fill(~readable_BQK, torch.finfo(query.dtype).min)[:, None]
            block = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop, scale=scale)
        else:
            scores = (query @ key.transpose(2, 3)).to(bias_BQK.dtype) * scale + bias_BQK[:, None]
            scores = capped(scores, softcap).masked_fill(~readable_BQK[:, None], torch.finfo(bias_BQK.dtype).min)
            block = dropout(scores.softmax(-1), p=drop).to(value.dtype) @ value
        blocks.append(block * readable_BQK.any(-1)[:, None, :, None])
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)


class SelfAttention(nn.Module):
    """Causal multi-head attention; the four linear layers are those of query, key, value and output."""

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.linears = nn.ModuleList(nn.Linear(width, width, bias=config.attention_bias) for _ in range(4))

    def forward(self, x_BQD: Tensor, keys: Keys, past: list[Tensor] | None = None) -> Tensor:
        """(B, Q, D) -> (B, Q, D). ``past`` holds keys and values of earlier positions and is extended."""
        heads = (*x_BQD.shape[:2], -1, self.head_dim)
        query, key, value = (linear(x_BQD).view(heads).transpose(1, 2) for linear in self.linears[:3])
        if past is not None:
            if past:
                key, value = (torch.cat(pair, dim=2) for pair in zip(past, (key, value), strict=True))
            past[:] = [key, value]
        out_BHQE = attend(
            query, key, value, keys,
            softcap=self.config.softcap,
            drop=self.config.attention_probs_dropout_prob if self.training else 0.0,
            fused=self.config._attn_implementation == "sdpa",
        )  # fmt: skip
        return self.linears[3](out_BHQE.transpose(1, 2).reshape(x_BQD.shape))


class Layer(GradientCheckpointingLayer):
    """One layer. The residual stream carries the *normalized* input of each half, as in the official code."""

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(width, inner, bias=config.ffn_bias)
        self.linear2 = nn.Linear(inner, width, bias=config.ffn_bias)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BQD: Tensor, keys: Keys, past: list[Tensor] | None = None) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        x_BQD = self.norm1(x_BQD)
        x_BQD = x_BQD + self.self_attn(x_BQD, keys, past)
        x_BQD = self.norm2(x_BQD)
        return x_BQD + self.linear2(self.dropout(self.activation(self.linear1(x_BQD))))


class Encoder(nn.Module):
    """The stack of layers; there is no norm behind the last."""

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__()
        self.encoder_layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class Mlp(nn.Module):
    """Linear, ReLU, norm, dropout, linear: gene vectors, both heads."""

    def __init__(self, config: AutoregressiveTransformerConfig, width_in: int, inner: int, width_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width_in, inner),
            nn.ReLU(),
            nn.LayerNorm(inner, eps=config.layer_norm_eps),
            nn.Dropout(config.hidden_dropout_prob),
            nn.Linear(inner, width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        return self.layers(x)


class GeneTable(nn.Embedding):
    """Only a name: its rows are not as small as other weights at first."""


class GeneEmbeddings(nn.Module):
    """A table of gene vectors, given and frozen, and the network that makes them as wide as the model.

    Without given vectors the table is as wide as the model and is trained.
    """

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__()
        width, self.given = config.hidden_size, config.gene_vector_dim is not None
        self.embedding: nn.Embedding = GeneTable(config.n_rows, config.gene_vector_dim or width)
        self.freeze_given()
        self.mlp = Mlp(config, self.embedding.embedding_dim, width, width)

    def freeze_given(self) -> None:
        """Given vectors get no gradient."""
        self.embedding.weight.requires_grad_(not self.given)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return self.mlp(self.embedding(ids))


class CountHead(nn.Module):
    """A score for the count of a gene: what the cell says so far and which gene it is, and a bias a gene."""

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__()
        self.gene_embedding = nn.Embedding(config.n_rows, 1)
        self.mlp = Mlp(config, 2 * config.hidden_size, config.hidden_size // 2, 1)

    def forward(self, x: Tensor, genes: Tensor, ids: Tensor) -> Tensor:
        """Rows (..., D), embeddings of the genes to be counted (..., D), their ids (...) -> (...)."""
        return (self.gene_embedding(ids) + self.mlp(torch.cat([x, genes], dim=-1))).squeeze(-1)


# --- what transformers needs to know ---------------------------------------------------------------


class AutoregressiveTransformerPreTrainedModel(PreTrainedModel):
    """Loading, saving, initialization, freezing: common to the model and its classifier."""

    config: AutoregressiveTransformerConfig
    config_class = AutoregressiveTransformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch: let the HF Trainer divide them itself
    _no_split_modules = ["Layer"]
    _supports_sdpa = True

    Options = AutoregressiveOptions
    required_inputs = ("input_ids", "attention_mask", "values")
    """Tensors of a tokenizer's batch without which it cannot run; it reads ``assay_ids`` where it knows assays."""
    objectives = ("next_gene_prediction",)
    """Names of the objectives it can be trained under."""
    frozen_tensors: tuple[str, ...] = ("gene_embeddings.embedding.weight",)
    """Tensors that are given and not trained; none in a model without given gene vectors."""
    embedding_defaults = (0, "cell")
    """Layer and pooling of the official embeddings."""
    gives_attention, gives_gene_vectors, allows_knockout = False, True, True
    """Whether it gives attention, a vector of each gene in its cell, and the vectors of a cell without one gene."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # Linear, Embedding and LayerNorm; there are no buffers
        if isinstance(module, GeneTable):
            init.normal_(module.weight)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; given gene vectors stay frozen, which transformers forgets."""
        loaded = super().from_pretrained(*args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model.gene_embeddings.freeze_given()
        return loaded

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save weights, configuration and code: a folder that every auto class loads without scmf."""
        if type(self)._auto_class is not None:
            self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)

    def freeze_first(self, n_layers: int, *, embeddings: bool = False) -> None:
        """Stop training the first ``n_layers`` layers.

        Parameters
        ----------
        n_layers
            Layers to freeze, counted from the input.
        embeddings
            Freeze the embeddings of genes and assays as well.

        Raises
        ------
        ValueError
            If there are not that many layers.
        """
        network: Any = self.base_model
        layers = network.transformer_encoder.encoder_layers
        if not 0 <= n_layers <= len(layers):
            raise _problem(
                f"{n_layers} layers to freeze", f"0 to {len(layers)}", "freeze_first", "freeze no more than there are"
            )
        inputs = [network.gene_embeddings, network.aux_embeddings] if embeddings else []
        for module in (*layers[:n_layers], *inputs):
            module.requires_grad_(False)


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


@dataclass
class AutoregressiveTransformerOutput(ModelOutput):
    """What a forward pass gives.

    Parameters
    ----------
    loss
        ``count_loss + weight * gene_loss``, when there are labels.
    count_loss, gene_loss
        See `AutoregressiveTransformerModel.forward`.
    logits
        Scores of the next gene before the softcap, (B, R, V).
    mu
        Expected count of each gene, given the genes before it, (B, L).
    last_hidden_state
        (B, S, D).
    hidden_states
        Input of the first layer and output of every layer, (B, S, D) each.
    """

    loss: Tensor | None = None
    count_loss: Tensor | None = None
    gene_loss: Tensor | None = None
    logits: Tensor | None = None
    mu: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


# --- the model ------------------------------------------------------------------------------------


class AutoregressiveTransformerModel(AutoregressiveTransformerPreTrainedModel):
    """The network with both heads: pretraining, embeddings, likelihoods, generation.

    Parameters
    ----------
    config
        The configuration.
    heads
        Make the heads; a cell classifier has no use for them.
    """

    def __init__(self, config: AutoregressiveTransformerConfig, heads: bool = True) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.gene_embeddings = GeneEmbeddings(config)
        assays = {"assay": nn.Embedding(config.n_assays, width)} if config.n_assays else {}
        self.aux_embeddings = nn.ModuleDict(assays)
        self.transformer_encoder = Encoder(config)
        self.mu: Any = CountHead(config) if heads else None
        inner = config.gene_head_dim or width
        self.gene_id_head: Any = Mlp(config, width, inner, config.n_rows) if heads else None
        self.gradient_checkpointing = False
        if config.gene_vector_dim is None:
            self.frozen_tensors = ()
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of gene vectors."""
        return self.gene_embeddings.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table of gene vectors."""
        self.gene_embeddings.embedding = value

    def get_output_embeddings(self) -> nn.Linear | None:
        """What scores the genes; None without heads."""
        return None if self.gene_id_head is None else self.gene_id_head.layers[-1]

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace what scores the genes."""
        self.gene_id_head.layers[-1] = value

    @torch.no_grad()
    def set_gene_vectors(self, vectors: Any) -> None:
        """Put given gene vectors into the frozen table.

        Parameters
        ----------
        vectors
            Array or tensor (vocab_size, gene_vector_dim), one row a token. Rows that the model owns behind the
            vocabulary (START, END) are drawn from a fixed seed, as spread as the given ones.

        Raises
        ------
        ValueError
            If the model was built without given vectors, or they have another shape or are not finite.
        """
        table = self.gene_embeddings.embedding.weight
        given, wanted = torch.as_tensor(vectors, dtype=table.dtype), (self.config.vocab_size, table.shape[1])
        if self.config.gene_vector_dim is None or tuple(given.shape) != wanted or not bool(given.isfinite().all()):
            raise _problem(
                f"gene vectors {tuple(given.shape)}",
                "a model built with gene_vector_dim" if self.config.gene_vector_dim is None else f"finite {wanted}",
                "set_gene_vectors",
                "give the table of the tokenizer that the model was built for",
            )
        table[: len(given)] = given.to(table.device)
        if owned := len(table) - len(given):
            draws = torch.randn(owned, wanted[1], generator=torch.Generator().manual_seed(42), dtype=torch.float32)
            table[len(given) :] = (draws * given.float().std(correction=0)).to(table)

    # --- reading a cell ---

    def genes(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Where a gene stands that is read and predicted, bool (B, L)."""
        valid_BL = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if self.config.match_official:
            return valid_BL
        special = torch.tensor(self.config.special_token_ids, dtype=input_ids.dtype, device=input_ids.device)
        return valid_BL & (input_ids >= self.config.gene_token_start) & ~torch.isin(input_ids, special)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        values: Tensor | None,
        assay_ids: Tensor | None = None,
        *,
        own_count: bool,
        n_layers: int | None = None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Run the encoder over ``[assay, START, genes]``.

        Parameters
        ----------
        input_ids, attention_mask, values, assay_ids
            As in `forward`.
        own_count
            Whether a query sees its own count; see `Keys`.
        n_layers
            Layers to run; None for all.

        Returns
        -------
        tuple
            Input of the first layer and output of every layer, (B, S, D) each; embeddings of the genes (B, L, D).
        """
        genes_BLD = self.gene_embeddings(input_ids)
        valid_BL = self.genes(input_ids, attention_mask)
        x_BSD, keys = self._inputs(genes_BLD, valid_BL, values, assay_ids, own_count=own_count)
        states = [x_BSD]
        for layer in self.transformer_encoder.encoder_layers[:n_layers]:
            states.append(layer(states[-1], keys))
        return tuple(states), genes_BLD

    def _inputs(
        self, genes_BLD: Tensor, valid_BL: Tensor, values: Tensor | None, assay_ids: Tensor | None, *, own_count: bool
    ) -> tuple[Tensor, Keys]:
        """Assay and START put in front: embeddings (B, S, D), and the keys. The count of both is 1."""
        batch, length = valid_BL.shape
        if values is None:
            raise _problem("a batch without values", "values (B, L), the counts", "forward", "use such a tokenizer")
        if length > self.config.max_positions:
            raise _problem(
                f"cells of {length} genes", f"at most max_positions={self.config.max_positions}", "input_ids",
                "crop the cells (max_length of the tokenizer) or build a longer model",
            )  # fmt: skip
        start = torch.full((batch, 1), self.config.start_row, device=valid_BL.device)
        pieces, valid = [self.gene_embeddings(start), genes_BLD], [torch.ones_like(start, dtype=torch.bool), valid_BL]
        if self.config.n_assays:
            if assay_ids is None:
                raise _problem(
                    "a batch without assay_ids", f"assay_ids (B,) below {self.config.n_assays}", "forward",
                    "use the tokenizer the model was built for (assay_key)",
                )  # fmt: skip
            assay_B1 = assay_ids.view(batch, 1)
            unknown = self.config.unknown_assay_id
            pieces.insert(0, self.aux_embeddings["assay"](assay_B1))
            valid.insert(0, torch.ones_like(start, dtype=torch.bool) if unknown is None else assay_B1 != unknown)
        counts_BL = values.float().masked_fill(~valid_BL, 0.0).clamp(min=0)
        counts_BS = torch.nn.functional.pad(counts_BL, (len(pieces) - 1, 0), value=1.0)
        log_counts_BS = torch.log(1 + counts_BS + self.config.count_eps)
        return torch.cat(pieces, dim=1), Keys(log_counts_BS, torch.cat(valid, dim=1), own_count)

    def expected_counts(
        self, x_BRD: Tensor, genes_BLD: Tensor, input_ids: Tensor, valid_BL: Tensor, values: Tensor
    ) -> Tensor:
        """Expected count of each gene given the genes before it, float32 (B, L).

        By the softmax link it is a share of the total of the cell; the share is taken over all its genes, which is
        the one place where a gene depends on later ones.
        """
        scores_BL = self.mu(x_BRD[:, : input_ids.shape[1]], genes_BLD, input_ids).float()
        if self.config.count_link == "softplus":
            return softplus(scores_BL)
        shares_BL = scores_BL.masked_fill(~valid_BL, torch.finfo(torch.float32).min).softmax(dim=1)
        return shares_BL * values.float().masked_fill(~valid_BL, 0.0).sum(1, keepdim=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        assay_ids: Tensor | None = None,
        labels: Tensor | None = None,
        gene_loss_weight: Tensor | float = 1.0,
        return_logits: bool | None = None,
        output_hidden_states: bool = False,
        own_count: bool = False,
        **kwargs: Any,
    ) -> AutoregressiveTransformerOutput:
        """Predict at every row the next gene and its count.

        Parameters
        ----------
        input_ids, attention_mask, values
            Genes (B, L), their mask and counts. Special tokens among them are passed over.
        assay_ids
            int64 (B,), for a model that knows assays.
        labels
            int64 (B, R): the gene after START, after the first gene, and so on; `END` where the cell ends, `IGNORED`
            where nothing is predicted (see `next_genes`).

            ``count_loss``: mean negative log likelihood of the counts of predicted genes (see `count_nll`).
            ``gene_loss``: mean cross entropy of the next gene over predicted rows, scores bounded by the softcap;
            ``match_official``: sum over predicted rows, divided by ``B * max_positions``, and `END` has the count 1.
            Without anything to predict both are 0 with zero gradients (``match_official``: the first is NaN).
        gene_loss_weight
            Weight of ``gene_loss`` in ``loss``.
        return_logits
            Return scores (B, R, V). Default: only when ``labels`` is None.
        output_hidden_states
            Return what every layer put out.
        own_count
            Let a query see its own count, as in `embed`; training does not.
        **kwargs
            Other tensors of the batch, ignored.

        Raises
        ------
        ValueError
            If a tensor is missing, or a count to be predicted is negative.
        """
        states, genes_BLD = self.encode(input_ids, attention_mask, values, assay_ids, own_count=own_count)
        assert values is not None  # encode has checked it
        x_BRD, valid_BL = states[-1][:, self._n_assay_rows :], self.genes(input_ids, attention_mask)
        mu_BL = self.expected_counts(x_BRD, genes_BLD, input_ids, valid_BL, values)
        loss = count_loss = gene_loss = None
        if labels is not None:
            count_loss, gene_loss = self._losses(mu_BL, x_BRD, values, labels)
            loss = count_loss + gene_loss_weight * gene_loss
        if self.config.match_official and self.config.count_link == "softmax":
            mu_BL = mu_BL.masked_fill(~valid_BL.any(1, keepdim=True), torch.nan)
        return AutoregressiveTransformerOutput(
            loss=loss,
            count_loss=count_loss,
            gene_loss=gene_loss,
            logits=self.gene_id_head(x_BRD) if labels is None or return_logits else None,
            mu=mu_BL,
            last_hidden_state=states[-1],
            hidden_states=states if output_hidden_states else None,
        )

    @property
    def _n_assay_rows(self) -> int:
        return int(self.config.n_assays > 0)

    def _count_nll(self, mu_BL: Tensor, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (N,) of the counts that are predicted, and where these stand, bool (B, L)."""
        labels_BL = labels[:, : mu_BL.shape[1]]
        counts_BL = torch.where(labels_BL == END, 1.0, values.float())
        at_BL = labels_BL != IGNORED if self.config.match_official else labels_BL >= 0
        if not self.config.match_official and self.config.count_likelihood != "poisson":
            at_BL = at_BL & (counts_BL != 0)  # a truncated distribution says nothing of zeros
        counts_N = counts_BL[at_BL]
        if bool((counts_N < 0).any()):
            raise _problem(
                f"a value of {float(counts_N.min()):g} to be predicted", "counts of 0 and more", "values",
                "use a tokenizer that gives counts, such as transform: clipped_counts",
            )  # fmt: skip
        nll_N = count_nll(
            mu_BL[at_BL],
            counts_N,
            likelihood=self.config.count_likelihood,
            eps=self.config.count_eps,
            max_count=self.config.max_count,
        )
        return nll_N, at_BL

    def _gene_nll(self, x_BRD: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (N,) of the genes that are predicted, and where these stand, bool (B, R)."""
        at_BR = labels != IGNORED
        targets_N = labels[at_BR]
        targets_N = torch.where(targets_N == END, self.config.end_row, targets_N)
        scores_NV = capped(self.gene_id_head(x_BRD[at_BR]).float(), self.config.softcap)
        return cross_entropy(scores_NV, targets_N, reduction="none"), at_BR

    def _losses(self, mu_BL: Tensor, x_BRD: Tensor, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of counts and of genes, scalars."""
        counts_N, genes_N = self._count_nll(mu_BL, values, labels)[0], self._gene_nll(x_BRD, labels)[0]
        if self.config.match_official:
            return counts_N.sum() / len(counts_N), genes_N.sum() / (len(labels) * self.config.max_positions)
        return counts_N.sum() / max(len(counts_N), 1), genes_N.sum() / max(len(genes_N), 1)

    # --- embeddings and likelihoods ---

    @torch.no_grad()
    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        assay_ids: Tensor | None = None,
        *,
        layer: int = 0,
        pooling: str = "cell",
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells or the genes in them, without gradient and without dropout.

        Parameters
        ----------
        input_ids, attention_mask, values, assay_ids
            As in `forward`.
        layer
            0 is the output of the last layer, -1 of the one before, and so on down to ``-num_hidden_layers``, the
            input of the first layer. Layers above it are not computed.
        pooling
            ``"cell"``: mean over the genes; ``match_official``: the sum over START and the first ``max_positions - 1``
            genes, divided by ``max_positions``.
            ``"gene"``: no pooling, one vector a gene in its cell; ``match_official``: the row before it, which has not
            seen the gene.
            ``"vector"``: mean of the given gene vectors, the official baseline ESM2-CE; ``match_official``: their sum,
            divided by ``max_positions``.
        **kwargs
            Other tensors of the batch, ignored.

        Returns
        -------
        Tensor
            (B, D), with ``"gene"`` (B, L, D), where rows of padding hold no meaning, with ``"vector"``
            (B, gene_vector_dim).

        Raises
        ------
        ValueError
            If a cell has no gene (not under ``match_official``), or the layer or the pooling does not exist.
        """
        depth, match_official = self.config.num_hidden_layers, self.config.match_official
        if not -depth <= layer <= 0:
            raise _refused_embedding(f"layer={layer}", f"0 (last layer) to {-depth} (input of the first)")
        if pooling not in ("cell", "gene", "vector"):
            raise _refused_embedding(f"pooling={pooling!r}", "'cell', 'gene' or 'vector'; no token stands for the cell")
        valid_BL = self.genes(input_ids, attention_mask)
        if not match_official and not bool(valid_BL.any(1).all()):
            raise _refused_embedding("a cell without a gene", "at least one gene")
        if pooling == "vector":
            x_BLD = self.gene_embeddings.embedding(input_ids)
            return self._pooled(x_BLD, valid_BL)
        with _without_dropout(self):
            states, _ = self.encode(
                input_ids, attention_mask, values, assay_ids, own_count=True, n_layers=depth + layer
            )
        x_BRD = states[-1][:, self._n_assay_rows :]
        if not match_official:
            x_BLD = x_BRD[:, 1:]
            return x_BLD if pooling == "gene" else self._pooled(x_BLD, valid_BL)
        if pooling == "gene":
            return x_BRD[:, :-1]
        read_BR = torch.nn.functional.pad(valid_BL, (1, 0), value=True)
        longest = self.config.max_positions
        return self._pooled(x_BRD[:, :longest], read_BR[:, :longest])

    def _pooled(self, x_BLD: Tensor, at_BL: Tensor) -> Tensor:
        """Mean over the given positions (``match_official``: their sum by ``max_positions``), (B, L, D) -> (B, D)."""
        n_B1 = at_BL.sum(1, keepdim=True).to(x_BLD.dtype)
        if self.config.match_official:
            n_B1 = torch.full_like(n_B1, self.config.max_positions)
        return x_BLD.masked_fill(~at_BL[..., None], 0.0).sum(1) / n_B1

    @torch.no_grad()
    def log_likelihood(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        assay_ids: Tensor | None = None,
        *,
        of: str = "counts",
        pooling: str = "cell",
        own_count: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Log likelihood of the counts given the genes, or of the genes, in nats, without dropout.

        Parameters
        ----------
        input_ids, attention_mask, values, assay_ids
            As in `forward`.
        of
            ``"counts"`` or ``"genes"`` (END included).
        pooling
            ``"cell"``: mean over what is predicted, NaN for a cell without; ``"gene"``: no pooling, 0 where nothing
            is predicted.
        own_count
            Let a query see its own count. Default: as in training; ``match_official``: as in `embed`.
        **kwargs
            Other tensors of the batch, ignored.

        Returns
        -------
        Tensor
            (B,); with ``"gene"`` (B, L) for counts and (B, R) for genes, by rows as in `next_genes`.
            ``match_official``: the
            official numbers, which have the opposite sign.
        """
        match_official = self.config.match_official
        if of not in ("counts", "genes") or pooling not in ("cell", "gene"):
            raise _problem(
                f"of={of!r}, pooling={pooling!r}", "'counts' or 'genes', 'cell' or 'gene'", "log_likelihood",
                "change the argument",
            )  # fmt: skip
        genes_BL = self.genes(input_ids, attention_mask)
        labels = next_genes(input_ids, genes_BL, longest=self.config.max_positions, match_official=match_official)
        with _without_dropout(self):
            own = match_official if own_count is None else own_count
            states, vectors_BLD = self.encode(input_ids, attention_mask, values, assay_ids, own_count=own)
            assert values is not None  # encode has checked it
            x_BRD = states[-1][:, self._n_assay_rows :]
            if of == "genes":
                nll_N, at = self._gene_nll(x_BRD, labels)
            else:
                mu_BL = self.expected_counts(x_BRD, vectors_BLD, input_ids, genes_BL, values)
                nll_N, at = self._count_nll(mu_BL, values, labels)
        out = torch.zeros(at.shape, device=at.device)
        out[at] = nll_N if match_official else -nll_N
        return out if pooling == "gene" else out.sum(1) / at.sum(1)

    # --- generation ---

    @torch.no_grad()
    def generate(
        self,
        n_cells: int = 1,
        *,
        prompt: dict[str, Tensor] | None = None,
        assay_ids: Tensor | None = None,
        total_counts: Tensor | float | None = None,
        max_length: int | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Generate cells gene by gene: the gene from the gene head, then its count.

        A gene that is there already is not drawn again, nor is a special token; a cell ends where `END` is drawn (not
        before its first gene) or with ``max_length``. Keys and values of earlier positions are kept, so that a step
        costs one row.

        Parameters
        ----------
        n_cells
            Cells to generate; with a prompt or ``assay_ids`` as many as these have.
        prompt
            ``input_ids``, ``attention_mask`` and ``values``, (B, P) each: the cells begin with these genes.
        assay_ids
            int64 (B,), for a model that knows assays.
        total_counts
            Total count of a cell, a number or (B,). The softmax link needs it: an expected count is a share of the
            total, and the genes to come, up to ``max_length``, are taken to weigh as much as the mean of those so far.
        max_length
            Most genes of a cell, prompt included; default ``max_positions``.
        temperature
            Divides the scores of the next gene.
        greedy
            Take the most likely gene and the most likely count instead of drawing them.
        seed
            Seed of the draws.

        Returns
        -------
        dict
            ``input_ids`` (int64), ``attention_mask`` (int64) and ``values`` (float32), (B, length) each, without the
            start and end tokens, padded on the right; ``ended`` (bool, (B,)), whether END was drawn.

        Raises
        ------
        ValueError
            If an argument contradicts another, or ``total_counts`` is missing.
        """
        longest = self.config.max_positions if max_length is None else max_length
        if not 1 <= longest <= self.config.max_positions or not temperature > 0:
            raise _problem(
                f"max_length={longest}, temperature={temperature}",
                f"1 to {self.config.max_positions} genes, a temperature above 0", "generate", "change the argument",
            )  # fmt: skip
        if self.config.count_link == "softmax" and total_counts is None:
            raise _problem(
                "no total_counts", "the total count of a cell, which the softmax link divides", "generate",
                "give a number, such as the median of the training cells",
            )  # fmt: skip
        if prompt is None:
            n_cells = n_cells if assay_ids is None else len(assay_ids)
            prompt = {"input_ids": torch.zeros(n_cells, 0, dtype=torch.long), "values": torch.zeros(n_cells, 0)}
        random = torch.Generator(self.device).manual_seed(seed)
        with _without_dropout(self):
            state = _Generation(self, prompt, assay_ids, total_counts, longest=longest)
            while state.open:
                state.step(temperature=temperature, greedy=greedy, random=random)
        return state.cells()


def _refused_embedding(found: str, wanted: str) -> ValueError:
    return _problem(found, wanted, "embed of the autoregressive transformer", "change the argument or the cells")


class _Generation:
    """Cells while they are generated: genes and counts so far, keys and values of every layer.

    Every cell takes a step at once; one that has ended takes rows that are not read.
    """

    def __init__(
        self,
        model: AutoregressiveTransformerModel,
        prompt: dict[str, Tensor],
        assay_ids: Tensor | None,
        total_counts: Tensor | float | None,
        *,
        longest: int,
    ) -> None:
        """Read assay, START and prompt."""
        config, device = model.config, model.device
        self.model, self.config, self.longest = model, config, longest
        self.ids_BL, mask = prompt["input_ids"].to(device), prompt.get("attention_mask")
        self.valid_BL = model.genes(self.ids_BL, None if mask is None else mask.to(device))
        self.values_BL = prompt["values"].to(device).float().masked_fill(~self.valid_BL, 0.0)
        batch = len(self.ids_BL)
        if int(self.valid_BL.sum(1).max()) >= longest:
            raise _problem(
                "a prompt that fills the cell", f"fewer than max_length={longest} genes", "generate", "shorten it"
            )
        totals = torch.as_tensor(0.0 if total_counts is None else total_counts, dtype=torch.float32, device=device)
        self.totals_B = totals.expand(batch)
        self.ended_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.past: list[list[Tensor]] = [[] for _ in model.transformer_encoder.encoder_layers]

        genes_BLD = model.gene_embeddings(self.ids_BL)
        assay_B = None if assay_ids is None else assay_ids.to(device)
        x_BSD, self.keys = model._inputs(genes_BLD, self.valid_BL, self.values_BL, assay_B, own_count=False)
        x_BRD = self._run(x_BSD)[:, model._n_assay_rows :]
        scores_BL = model.mu(x_BRD[:, :-1], genes_BLD, self.ids_BL).float()
        self.weights_B = torch.where(self.valid_BL, scores_BL.exp(), 0.0).sum(1)
        read_BR = torch.nn.functional.pad(self.valid_BL, (1, 0), value=True)
        last_B = torch.where(read_BR, torch.arange(read_BR.shape[1], device=device), 0).amax(1)
        self.x_BD = x_BRD[torch.arange(batch, device=device), last_B]

        self.never_BV = torch.zeros(batch, config.n_rows, dtype=torch.bool, device=device)
        self.never_BV[:, [*range(config.gene_token_start), *config.special_token_ids, config.start_row]] = True
        self._never_again(self.ids_BL, self.valid_BL)

    def _never_again(self, ids_BL: Tensor, at_BL: Tensor) -> None:
        self.never_BV.scatter_reduce_(1, ids_BL, at_BL, "amax")

    def _run(self, x_BQD: Tensor) -> Tensor:
        for layer, past in zip(self.model.transformer_encoder.encoder_layers, self.past, strict=True):
            x_BQD = layer(x_BQD, self.keys, past)
        return x_BQD

    @property
    def open(self) -> bool:
        """Whether a cell can go on."""
        return bool((~self.ended_B & (self.valid_BL.sum(1) < self.longest)).any())

    def step(self, *, temperature: float, greedy: bool, random: torch.Generator) -> None:
        """One gene and its count for every cell that is not at its end."""
        config, n_B = self.config, self.valid_BL.sum(1)
        scores_BV = capped(self.model.gene_id_head(self.x_BD).float(), config.softcap) / temperature
        self.never_BV[:, config.end_row] = n_B == 0
        chances_BV = scores_BV.masked_fill(self.never_BV, -torch.inf).softmax(1)
        ids_B = chances_BV.argmax(1) if greedy else torch.multinomial(chances_BV, 1, generator=random)[:, 0]
        open_B = ~self.ended_B & (n_B < self.longest)
        self.ended_B = self.ended_B | (open_B & (ids_B == config.end_row))
        on_B = open_B & ~self.ended_B
        ids_B = torch.where(on_B, ids_B, config.pad_token_id or 0)
        genes_B1D = self.model.gene_embeddings(ids_B[:, None])

        scores_B = self.model.mu(self.x_BD, genes_B1D[:, 0], ids_B).float()
        if config.count_link == "softplus":
            mu_B = softplus(scores_B)
        else:
            self.weights_B = self.weights_B + torch.where(on_B, scores_B.exp(), 0.0)
            mean_B = self.weights_B / (n_B + 1)
            mu_B = torch.where(on_B, self.totals_B * scores_B.exp() / (mean_B * self.longest), 1.0)
        counts_B = mu_B.floor().clamp(min=1) if greedy else sample_counts(mu_B, generator=random)
        if config.max_count is not None:
            counts_B = counts_B.clamp(max=config.max_count)
        counts_B = counts_B.masked_fill(~on_B, 0.0)

        self.ids_BL, self.values_BL, self.valid_BL = (
            torch.cat([so_far, new[:, None]], dim=1)
            for so_far, new in ((self.ids_BL, ids_B), (self.values_BL, counts_B), (self.valid_BL, on_B))
        )
        self._never_again(ids_B[:, None], on_B[:, None])
        log_counts_B1 = torch.log(1 + counts_B + config.count_eps)[:, None]
        self.keys = Keys(
            torch.cat([self.keys.log_counts_BK, log_counts_B1], dim=1),
            torch.cat([self.keys.valid_BK, on_B[:, None]], dim=1),
            self.keys.own_count,
        )
        self.x_BD = torch.where(on_B[:, None], self._run(genes_B1D)[:, 0], self.x_BD)

    def cells(self) -> dict[str, Tensor]:
        """The cells, genes to the left."""
        order_BL = torch.argsort((~self.valid_BL).long(), dim=1, stable=True)
        order_BL = order_BL[:, : int(self.valid_BL.sum(1).max())]
        valid_BL = self.valid_BL.gather(1, order_BL)
        return {
            "input_ids": self.ids_BL.gather(1, order_BL).masked_fill(~valid_BL, self.config.pad_token_id or 0),
            "attention_mask": valid_BL.long(),
            "values": self.values_BL.gather(1, order_BL),
            "ended": self.ended_B,
        }


class AutoregressiveTransformerForSequenceClassification(AutoregressiveTransformerPreTrainedModel):
    """Cell classifier: mean over the genes (as `AutoregressiveTransformerModel.embed`), norm, dropout, linear."""

    frozen_tensors: tuple[str, ...] = ("model.gene_embeddings.embedding.weight",)

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = AutoregressiveTransformerModel(config, heads=False)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        if config.gene_vector_dim is None:
            self.frozen_tensors = ()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        assay_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Score the classes of each cell: logits (B, C); with ``labels`` (B,) also the mean cross entropy."""
        states, _ = self.model.encode(input_ids, attention_mask, values, assay_ids, own_count=True)
        genes_BLD = states[-1][:, self.model._n_assay_rows + 1 :]
        at_BL = self.model.genes(input_ids, attention_mask)
        n_B1 = at_BL.sum(1, keepdim=True).clamp(min=1)
        pooled_BD = genes_BLD.masked_fill(~at_BL[..., None], 0.0).sum(1) / n_B1
        logits_BC = self.classifier(self.dropout(self.norm(pooled_BD)))
        return SequenceClassifierOutput(
            loss=None if labels is None else cross_entropy(logits_BC.float(), labels), logits=logits_BC
        )

    def embed(self, *args: Any, **kwargs: Any) -> Tensor:
        """Embed cells as `AutoregressiveTransformerModel.embed` does."""
        return self.model.embed(*args, **kwargs)


# --- auto classes ---------------------------------------------------------------------------------

_AUTO_CLASSES = {
    AutoModel: AutoregressiveTransformerModel,
    AutoModelForPreTraining: AutoregressiveTransformerModel,
    AutoModelForSequenceClassification: AutoregressiveTransformerForSequenceClassification,
}
_AUTO_MAP = {"AutoConfig": f"configuration_autoregressive_transformer.{AutoregressiveTransformerConfig.__name__}"} | {
    auto.__name__: f"autoregressive_transformer.{model.__name__}" for auto, model in _AUTO_CLASSES.items()
}
for _auto, _model in _AUTO_CLASSES.items():
    _model.register_for_auto_class(_auto.__name__)

# The copy of this file in a checkpoint leaves the tables of the process alone; the installed one is known there.
if __name__.startswith("scmf."):
    AutoConfig.register(AutoregressiveTransformerConfig.model_type, AutoregressiveTransformerConfig)
    for _auto, _model in _AUTO_CLASSES.items():
        _auto.register(AutoregressiveTransformerConfig, _model)
