"""What a batch costs, measured on the CPU: operations, what is kept for the backward pass, seconds.

A network too large to be tried here is measured with one and with two layers: what a layer adds is the same for each.
Operations are those that the network runs (torch's counter), so that masks, packed heads and special attention count as
they are. Lives elsewhere: from batches to a run (plan).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from scmf.core.config.training import TrainingConfig
from scmf.training.objectives.protocol import Objective
from scmf.training.optimizer import make_optimizer

Batch = dict[str, Tensor]

LARGE = 40_000_000
"""Parameters from which on a network is measured with few layers."""
_MOST_PAIRS = 2**25
"""Pairs of positions, over all cells, of which attention is computed: eight cells of 2,048 positions."""
_LAYERS = ("num_hidden_layers", "num_decoder_layers")
_AT = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


_CPU_ATTENTION = {
    _AT._scaled_dot_product_flash_attention_for_cpu: _attention,
    _AT._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's counter does not know: the attention kernel of CPUs."""


@dataclass(frozen=True)
class Cost:
    """What one batch costs.

    Parameters
    ----------
    cells, tokens
        Cells of the batch, and positions of the longest.
    flops
        Operations of forward and backward pass.
    kept_bytes
        Memory of what the forward pass keeps for the backward pass, and of the largest tensor twice.
    seconds
        Forward and backward pass on this machine; None where few layers were measured.
    step_seconds
        Step of the optimizer on this machine.
    """

    cells: int
    tokens: int
    flops: float
    kept_bytes: float
    seconds: float | None = None
    step_seconds: float | None = None


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs run it: fused, also with dropout, which the kernel of CPUs does not know."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def measure(
    meta: Any, objective: Objective, batches: Sequence[Batch], training: TrainingConfig, *, gpu: bool = False
) -> list[Cost]:
    """The cost of each batch.

    Parameters
    ----------
    meta
        The network on the meta device.
    objective, training
        As in the run.
    batches
        Padded batches.
    gpu
        Count memory and operations as on a GPU, without measuring time.
    """
    shape = meta.config
    layers = {name: getattr(shape, name) for name in _LAYERS if isinstance(getattr(shape, name, None), int)}
    if sum(parameter.numel() for parameter in meta.parameters()) < LARGE or min(layers.values(), default=1) < 2:
        network = type(meta)(shape)
        return [_cost(network, objective, batch, training, timed=not gpu, gpu=gpu) for batch in batches]
    one = dict.fromkeys(layers, 1)
    found = []
    for batch in batches:
        base = _cost(_with(meta, one), objective, batch, training, timed=False, gpu=gpu)
        flops, kept = base.flops, base.kept_bytes
        for name, count in layers.items():
            more = _cost(_with(meta, {**one, name: 2}), objective, batch, training, timed=False, gpu=gpu)
            flops += (count - 1) * (more.flops - base.flops)
            kept += (count - 1) * (more.kept_bytes - base.kept_bytes)
        found.append(replace(base, flops=flops, kept_bytes=kept))
    return found


def _with(meta: Any, layers: dict[str, int]) -> Any:
    shape = copy.deepcopy(meta.config)
    for name, count in layers.items():
        setattr(shape, name, count)
    return type(meta)(shape)


def _cost(
    network: Any, objective: Objective, batch: Batch, training: TrainingConfig, *, timed: bool, gpu: bool
) -> Cost:
    network.train()
    whole, tokens = batch["input_ids"].shape
    few = max(1, min(whole, _MOST_PAIRS // tokens**2))
    part = {name: tensor[:few] if tensor.ndim and len(tensor) == whole else tensor for name, tensor in batch.items()}
    cost = _cost_of_part(network, objective, part, training, timed=timed, gpu=gpu)
    times = whole / few
    return replace(
        cost, cells=whole, flops=times * cost.flops, kept_bytes=times * cost.kept_bytes,
        seconds=None if cost.seconds is None else times * cost.seconds,
    )  # fmt: skip


def _cost_of_part(
    network: Any, objective: Objective, batch: Batch, training: TrainingConfig, *, timed: bool, gpu: bool
) -> Cost:
    inputs = objective.prepare(batch, torch.Generator().manual_seed(0))
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with ExitStack() as stack:
        stack.enter_context(counter)
        if training.precision != "32-true":
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        if gpu:
            stack.enter_context(_FusedAttention())
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(**inputs).loss
        loss.backward()
    cells, tokens = batch["input_ids"].shape
    cost = Cost(cells, tokens, float(counter.get_total_flops()), sum(kept.values()) + 2.0 * max(kept.values()))
    network.zero_grad(set_to_none=True)
    if not timed:
        return cost
    seconds, step_seconds = _times(network, inputs, training)
    return replace(cost, seconds=seconds, step_seconds=step_seconds)


def _times(network: Any, inputs: Batch, training: TrainingConfig) -> tuple[float, float]:
    """Seconds of a pass and of a step of the optimizer, as the loop makes them."""
    optimizer = make_optimizer(network, training)
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.precision != "32-true"):
        loss = network(**inputs).loss
    loss.backward()
    between = time.perf_counter()
    if training.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the network stays as it is
    optimizer.step()
    network.zero_grad(set_to_none=True)
    return between - started, time.perf_counter() - between


def fitted(costs: Sequence[Cost], attribute: str) -> tuple[float, float]:
    """The part of a cost that grows with the positions of a batch, and that which grows with their square a cell."""
    table = np.array([[c.cells * c.tokens, c.cells * c.tokens**2] for c in costs], float)
    values = np.array([getattr(c, attribute) for c in costs], float)
    from scipy.optimize import nnls

    scale = table.max(axis=0)
    solution = nnls(table / scale, values)[0] / scale
    return float(solution[0]), float(solution[1])
