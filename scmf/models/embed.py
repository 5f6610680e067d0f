"""Cells to vectors: a model's embeddings of tokenized cells, in the order of the cells.

Lives here: inference over ragged tokens. Lives elsewhere: the pooling rules (the model), what the
vectors are good for (scmf.evaluation), the AnnData around them (scmf.evaluation.embed_file).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch

from scmf.core import progress
from scmf.core.config.run import EvalConfig
from scmf.core.errors import ConfigError, ModelError, from_value_error
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import in_order, padded_tensors

Precision = Literal["32-true", "bf16-mixed"]
"""How the network computes; in bfloat16 only what PyTorch takes to be safe."""


def embed_tokens(
    model: Any, cells: Ragged, *, settings: EvalConfig, precision: Precision = "32-true",
    bar: progress.Bar | None = None, first: int = 0,
) -> np.ndarray:  # fmt: skip
    """Embed every cell.

    Parameters
    ----------
    model
        A model with ``embed(**batch, layer=, pooling=) -> (B, D)``.
    cells
        Tokens of N cells.
    settings
        The ``eval`` section: layer, pooling, cells in a forward pass.
    precision
        See `Precision`.
    bar
        Is advanced; None: one of its own.
    first
        Number of the first cell, for errors.

    Returns
    -------
    numpy.ndarray
        float32 (N, D), row ``i`` for cell ``i``.

    Raises
    ------
    ModelError
        If the layer or the pooling does not exist, a cell has no gene, or a vector is not finite.
    """
    device = next(model.parameters()).device
    out_ND: np.ndarray | None = None
    halved = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with nullcontext(bar) if bar is not None else progress.bar("embedding", len(cells), unit="cells") as shown, halved:
        for rows in in_order(cells, batch_size=settings.batch_size):
            x_BD = embed_rows(model, cells, rows, layer=settings.embedding_layer, pooling=settings.pooling)
            if out_ND is None:
                out_ND = np.zeros((len(cells), x_BD.shape[1]), dtype=np.float32)
            out_ND[rows] = x_BD.float().cpu().numpy()
            shown.advance(len(rows))
    if out_ND is None:
        raise ModelError("no cells to embed", wanted="at least one cell")
    if not np.isfinite(out_ND).all():
        bad = int(np.flatnonzero(~np.isfinite(out_ND).all(axis=1))[0])
        raise ModelError(
            f"embedding of cell {first + bad} is not finite",
            wanted="finite numbers",
            fix="check the weights of the model",
        )
    return out_ND


def embed_rows(model: Any, cells: Ragged, rows: np.ndarray, *, layer: int, pooling: str) -> torch.Tensor:
    """What ``model.embed`` makes of the cells ``rows`` in one forward pass: (B, D), with ``"gene"`` (B, L, D).

    Raises
    ------
    ModelError
        If the layer or the pooling does not exist, or a cell has no gene.
    """
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in padded_tensors(cells, rows).items()}
    batch.pop("labels", None)
    try:
        vectors: torch.Tensor = model.embed(**batch, layer=layer, pooling=pooling)
    except ValueError as error:
        raise from_value_error(ModelError, error) from error
    return vectors


def embeds_by_batch(model: Any) -> bool:
    """Whether the embedding of a cell depends on its batch, so that ``batch_ids`` are needed."""
    return bool(getattr(model.config, "embeds_by_batch", False))


def on_device(model: Any, device: str | None) -> Any:
    """The model on ``device`` (``cpu``, ``cuda``, ``cuda:1``, ``mps``); where it is when None.

    Raises
    ------
    ConfigError
        There is no such device here.
    """
    if device is None:
        return model
    known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    known += ["mps"] if torch.backends.mps.is_available() else []
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in known:
        raise ConfigError(
            f"device {device!r}", wanted=f"one of {', '.join(known)}", where="--device",
            fix="name a device that this machine and this PyTorch have",
        )  # fmt: skip
    return model.to(wanted)


def classify_tokens(model: Any, cells: Ragged, *, batch_size: int) -> np.ndarray:
    """Logits of a classification model for every cell, float32 (N, C), without dropout."""
    device = next(model.parameters()).device
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    model.eval()
    with torch.no_grad():
        for rows in in_order(cells, batch_size=batch_size):
            batch = {name: tensor.to(device) for name, tensor in padded_tensors(cells, rows).items()}
            batch.pop("labels", None)
            parts.append((rows, model(**batch).logits.float().cpu().numpy()))
    logits_NC = np.zeros((len(cells), parts[0][1].shape[1]), dtype=np.float32)
    for rows, logits_BC in parts:
        logits_NC[rows] = logits_BC
    if not np.isfinite(logits_NC).all():
        bad = int(np.flatnonzero(~np.isfinite(logits_NC).all(axis=1))[0])
        raise ModelError(
            f"scores of cell {bad} are not finite", wanted="finite numbers", fix="check the weights of the model"
        )
    return logits_NC
