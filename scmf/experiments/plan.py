"""What a run will take, before it starts: parameters, memory by part, disk, tokens, operations, hours and cost.

Sizes come from the network on the meta device, operations and activations from a few batches (pilot), hours from the
peak of a GPU and the share of it that training reaches. Lives elsewhere: GPUs and prices (gpus), printing (cli.plan).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from scmf.core import registry
from scmf.core.config.recipe import Recipe
from scmf.core.errors import ConfigError
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import MemoryBatches, padded_tensors
from scmf.experiments.gpus import Gpu
from scmf.experiments.pilot import Batch, Cost, fitted, measure
from scmf.models.build import build_on_meta
from scmf.tokenizers.build import given_tokenizer, ragged_of
from scmf.training.data import prepare
from scmf.training.loop import batches_of, total_steps
from scmf.training.share import Share
from scmf.training.stream_data import prepare_stream

log = logging.getLogger(__name__)

MFU = 0.3
"""Share of the peak that training is taken to reach; published: 0.16 (Geneformer-106M, A100), 0.43 (Tahoe-x1)."""
CONTEXT_GB = 0.7
"""What CUDA and its libraries take on a GPU, assumed."""
_SAMPLED = 6


@dataclass(frozen=True)
class Memory:
    """Memory of one process, in bytes, by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class OnGpu:
    """A run on GPUs of one kind."""

    gpu: Gpu
    count: int
    strategy: str
    memory: Memory
    fits: bool
    hours: float
    usd: float


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Parameters
    ----------
    parameters, trainable, embeddings
        Parameters, those that are trained, those in tables of embeddings.
    cells, tokens_per_cell, steps, cells_per_step
        Training cells, their mean tokens with padding, optimizer steps, cells in a full step.
    tokens, flops
        Positions that the network sees in the run, padding included, and operations of forward and backward pass.
    disk
        Bytes of the checkpoints that are kept, one more while it is written, and the model.
    memory
        Of one process on the CPU of this machine.
    seconds
        Training on the CPU of this machine in one process; None for networks that were measured with few layers.
    gpus
        The run on each kind of GPU.
    mfu
        Share of the peak that was assumed.
    """

    parameters: int
    trainable: int
    embeddings: int
    cells: int
    tokens_per_cell: float
    steps: int
    cells_per_step: int
    tokens: float
    flops: float
    disk: float
    memory: Memory
    seconds: float | None
    gpus: tuple[OnGpu, ...]
    mfu: float

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON, with what was assumed."""
        return asdict(self) | {
            "memory_total": self.memory.total,
            "gpus": [{**asdict(one), "memory_total": one.memory.total} for one in self.gpus],
            "hours": "flops / (gpus x peak x mfu), training alone",
        }


@dataclass(frozen=True)
class _Work:
    """The batches of a run: shapes of those of an epoch, and a few of them to be tried."""

    sampled: list[Batch]
    shapes: np.ndarray
    batches_per_epoch: int
    n_cells: int


def plan(
    recipe: Recipe,
    gpus: Sequence[Gpu],
    *,
    count: int | None = None,
    mfu: float = MFU,
    cells: int | None = None,
    tokens: int | None = None,
) -> Plan:
    """Plan the training of a recipe.

    Parameters
    ----------
    recipe
        The configuration.
    gpus
        Kinds of GPUs.
    count
        GPUs of a run; that of the configuration if None.
    mfu
        Share of their peak that training reaches.
    cells, tokens
        Training cells and tokens of each, in place of the cells of the configuration, which are not read then.

    Raises
    ------
    ConfigError
        ``cells`` without ``tokens``, or with a vocabulary that is fitted on cells.
    """
    config, training = recipe.config, recipe.config.training
    count = count or (training.num_gpus or training.num_processes or 1) * training.num_nodes
    if (cells is None) != (tokens is None):
        raise ConfigError("one of --cells and --tokens", wanted="both", where="scmf plan", fix="give the other one too")
    if cells is not None and tokens is not None:
        tokenizer, names, work = _imagined(recipe, cells, tokens, count)
    else:
        prepared: Any = prepare_stream(config) if config.data.streamed else prepare(config)
        tokenizer, names = prepared.tokenizer, prepared.batch_names
        work = _of_cells(prepared, recipe, count)
    meta = build_on_meta(config, tokenizer, batch_names=names)
    objective = registry.resolve("objectives", training.pretraining_task).from_settings(
        training, tokenizer, match_official=config.tokenizer.match_official
    )
    log.info(f"measuring {len(work.sampled)} batches")
    here = measure(meta, objective, work.sampled, training)
    there = measure(meta, objective, [max(work.sampled, key=_size)], training, gpu=True)
    return _plan(recipe, meta, work, here, there, gpus, count=count, mfu=mfu)


def _plan(
    recipe: Recipe,
    meta: Any,
    work: _Work,
    here: list[Cost],
    there: list[Cost],
    gpus: Sequence[Gpu],
    *,
    count: int,
    mfu: float,
) -> Plan:
    training = recipe.config.training
    n = sum(parameter.numel() for parameter in meta.parameters())
    trained = sum(parameter.numel() for parameter in meta.parameters() if parameter.requires_grad)
    tables = {
        id(module.weight): module.weight.numel() for module in meta.modules() if hasattr(module, "num_embeddings")
    }
    in_step = training.gradient_accumulation * count
    steps = total_steps(work.batches_per_epoch, training, in_step)
    epochs = min(training.max_epochs, steps * in_step / work.batches_per_epoch)
    linear, square = fitted(here, "flops")
    positions, squares = work.shapes[:, 0] * work.shapes[:, 1], work.shapes[:, 0] * work.shapes[:, 1] ** 2
    scale = epochs * work.batches_per_epoch / len(work.shapes)
    flops = scale * float((linear * positions + square * squares).sum())
    seconds = None
    if all(cost.seconds is not None for cost in here):
        rate = sum(cost.flops for cost in here) / sum(cost.seconds or 0.0 for cost in here)
        step = float(np.median([cost.step_seconds for cost in here if cost.step_seconds is not None]))
        seconds = flops / rate + step * steps
    state = {"weights": 4.0 * n, "gradients": 4.0 * trained, "optimizer": 8.0 * trained}
    largest = _largest_layer(meta)
    return Plan(
        parameters=n,
        trainable=trained,
        embeddings=sum(tables.values()),
        cells=work.n_cells,
        tokens_per_cell=float(positions.sum() / work.shapes[:, 0].sum()),
        steps=steps,
        cells_per_step=training.batch_size * training.gradient_accumulation * count,
        tokens=scale * float(positions.sum()),
        flops=flops,
        disk=(training.keep_checkpoints + 1) * (4.0 * n + 8.0 * trained) + 4.0 * n,
        memory=Memory(**state, activations=max(cost.kept_bytes for cost in here)),
        seconds=seconds,
        gpus=tuple(
            _on_gpu(gpu, recipe, state, there[0].kept_bytes, largest, flops, count=count, mfu=mfu) for gpu in gpus
        ),
        mfu=mfu,
    )


def _on_gpu(
    gpu: Gpu,
    recipe: Recipe,
    state: dict[str, float],
    kept: float,
    largest: int,
    flops: float,
    *,
    count: int,
    mfu: float,
) -> OnGpu:
    """The run on one kind of GPU; with ``strategy: auto`` sharded as the run would be."""
    asked, whole = recipe.config.training.strategy, sum(state.values())
    sharded = count > 1 and (asked == "fsdp" or (asked == "auto" and whole > gpu.memory_gb * 1e9 / 2))
    parts = {name: value / count for name, value in state.items()} if sharded else dict(state)
    if sharded:
        parts["weights"] += 2 * 4.0 * largest  # the layer at work, and the next one
    elif count > 1:
        parts["gradients"] *= 2  # the buckets of DDP
    memory = Memory(**parts, activations=kept)
    hours = flops / (count * gpu.peak_tflops * 1e12 * mfu) / 3600
    fits = memory.total + CONTEXT_GB * 1e9 <= gpu.memory_gb * 1e9
    strategy = "fsdp" if sharded else "ddp" if count > 1 else "one process"
    return OnGpu(gpu, count, strategy, memory, fits, hours, hours * count * gpu.usd_per_hour)


def _largest_layer(meta: Any) -> int:
    layers = set(meta._no_split_modules or ())
    sizes = [sum(p.numel() for p in m.parameters()) for m in meta.modules() if type(m).__name__ in layers]
    return max(sizes, default=0)


def _size(batch: Batch) -> int:
    return int(batch["input_ids"].numel())


def _of_cells(prepared: Any, recipe: Recipe, count: int) -> _Work:
    """The batches of the cells of a configuration: all shapes in memory, the first few of a stream."""
    training = recipe.config.training
    cells = prepared.batches(training)
    source = batches_of(cells, training, Share())
    if not isinstance(source, MemoryBatches):
        first = list(islice(source.epoch(0), _SAMPLED))
        dealt = batches_of(cells, training, Share.of(training, rank=0, world_size=count))
        return _Work(first, _shapes(first), dealt.batches_of_all_ranks, prepared.n_training)
    rows = list(source.order.epoch(0))
    lengths = source.order.lengths
    shapes = np.array([[len(of), lengths[of].max()] for of in rows], float)
    by_size = np.argsort(shapes[:, 0] * shapes[:, 1])
    chosen = np.unique(by_size[np.linspace(0, len(rows) - 1, min(_SAMPLED, len(rows))).round().astype(int)])
    tokens = source.cells if isinstance(source.cells, Ragged) else source.cells.draw(0)
    sampled = [padded_tensors(tokens, rows[i]) for i in chosen]
    return _Work(sampled, shapes, source.batches_per_epoch, prepared.n_training)


def _shapes(batches: Sequence[Batch]) -> np.ndarray:
    return np.array([batch["input_ids"].shape for batch in batches], float)


def _imagined(recipe: Recipe, cells: int, tokens: int, count: int) -> tuple[Any, list[str], _Work]:
    """Cells that nobody has read: each with as many genes of the vocabulary, and small counts."""
    import scipy.sparse as sp

    config, training = recipe.config, recipe.config.training
    if config.tokenizer.vocabulary == "fit":
        raise ConfigError(
            "--cells with a vocabulary that is fitted on cells", wanted="a vocabulary that is known before",
            where="tokenizer.vocabulary", fix="name a card, such as geneformer-v2, or leave out --cells and --tokens",
        )  # fmt: skip
    tokenizer = given_tokenizer(config.tokenizer)
    if tokenizer.obs_columns:
        raise ConfigError(
            f"--cells with a tokenizer that reads {', '.join(tokenizer.obs_columns)}",
            wanted="cells with these columns", where="tokenizer", fix="leave out --cells and --tokens",
        )  # fmt: skip
    special = set(tokenizer.all_special_tokens)
    genes = sorted(name for name in tokenizer.get_vocab() if name not in special and not name.startswith("<"))
    per_cell = max(1, min(tokens, tokenizer.max_length, len(genes)) - tokenizer.num_special_tokens_to_add())
    rng, batch = np.random.default_rng(0), min(cells, training.batch_size)
    columns = np.concatenate([np.sort(rng.choice(len(genes), per_cell, replace=False)) for _ in range(batch)])
    counts = rng.integers(1, 9, size=len(columns)).astype(np.float32)
    matrix = sp.csr_matrix((counts, columns, np.arange(batch + 1) * per_cell), shape=(batch, len(genes)))
    padded = padded_tensors(ragged_of(tokenizer, tokenizer.encode_cells(matrix, tuple(genes))), np.arange(batch))
    per_epoch = -(-cells // training.batch_size)
    return tokenizer, [], _Work([padded], _shapes([padded]), per_epoch, cells)
