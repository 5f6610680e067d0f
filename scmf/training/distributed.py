"""What the processes of a run do together while they train: the accelerator, sums, saving and evaluating.

Lives here: every collective call that is not a gradient. Lives elsewhere: which process this is (core.distributed),
the share of the cells of each process (data), gradients (accelerate, called by loop).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from scmf.core.config.run import TrainingConfig
from scmf.core.distributed import agreed, is_main, join, on_cpu, world_size
from scmf.core.errors import TrainingError

T = TypeVar("T")

_FSDP = "ACCELERATE_USE_FSDP"
"""Set by `accelerate launch --use_fsdp`, and by an Accelerator; accelerate and transformers look for it."""

FSDP2: dict[str, Any] = {
    "fsdp_version": 2,
    "reshard_after_forward": True,
    "auto_wrap_policy": "transformer_based_wrap",
    "state_dict_type": "SHARDED_STATE_DICT",
    "cpu_ram_efficient_loading": False,
}
"""What accelerate is told: the classes of ``_no_split_modules`` are shards of their own, and so are embeddings."""

_PRECISION = {"32-true": "no", "bf16-mixed": "bf16", "16-mixed": "fp16"}


def is_sharded(settings: TrainingConfig, model: Any) -> bool:
    """Whether the processes of this run hold shards of ``model``, not copies.

    ``strategy: auto`` shards when `accelerate launch` asks for it, or where weights, gradients and the moments of AdamW
    (16 bytes a parameter) would take over half of a GPU's memory.
    """
    asked = os.environ.pop(_FSDP, "").lower() == "true"
    if world_size() == 1 or settings.strategy == "ddp":
        return False
    if settings.strategy == "fsdp" or asked:
        return True
    if on_cpu():
        return False
    join()  # which chooses the GPU of this process
    bytes_ = 16 * sum(parameter.numel() for parameter in model.parameters())
    # the GPU of the first process decides for all, which must do the same
    return agreed(lambda: bytes_ > torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2)


def make_accelerator(settings: TrainingConfig, out: Path, *, sharded: bool = False) -> Any:
    """An Accelerator with the precision and the trackers of ``settings``; FSDP2 where GPUs hold shards."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    if settings.precision == "16-mixed" and not torch.cuda.is_available():
        raise TrainingError(
            "training.precision 16-mixed without a GPU", wanted="a CUDA device", fix="use bf16-mixed or 32-true"
        )
    # At each checkpoint it would warn that the tied decoder is written only once, which is intended.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    join()
    # One process trains several models in turn; the precision of the first must not stick.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=_PRECISION[settings.precision],
        log_with=list(settings.trackers) or None,
        project_dir=str(out) if settings.trackers else None,
        step_scheduler_with_optimizer=False,
        fsdp_plugin=FullyShardedDataParallelPlugin(**FSDP2) if sharded and not on_cpu() else None,
        # A model has heads for several objectives and trains only those of one.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    os.environ.pop(_FSDP, None)
    if accelerator.num_processes != world_size():
        raise TrainingError(
            f"{world_size()} processes were started, but {accelerator.num_processes} form the training group",
            wanted="one group of all processes",
            where="accelerate",
            fix="unset WORLD_SIZE and RANK: `scmf train` starts the processes of training.num_gpus itself",
        )
    return accelerator


def sum_over_ranks(accelerator: Any, value: Tensor) -> Tensor:
    """The sum of ``value`` over all processes, on each of them."""
    return accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value


def on_main(action: Callable[[], T]) -> T | None:
    """Run ``action`` on the main process while the others wait; they get None.

    Every process must call it. An error of the main process ends all of them.
    """
    result = agreed(action, share=False)
    return result if is_main() else None
