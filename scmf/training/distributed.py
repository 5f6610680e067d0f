"""What the processes of a run do together while they train: the accelerator, sums, saving and evaluating.

Lives here: every collective call that is not a gradient. Lives elsewhere: which process this is (core.distributed),
the share of the cells of each process (data), gradients (accelerate, called by loop).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from scmf.core.config.run import TrainingConfig
from scmf.core.distributed import agreed, is_main, join, on_cpu, world_size
from scmf.core.errors import TrainingError

T = TypeVar("T")

_PRECISION = {"32-true": "no", "bf16-mixed": "bf16", "16-mixed": "fp16"}


def make_accelerator(settings: TrainingConfig, out: Path) -> Any:
    """An Accelerator with the precision and the trackers of ``settings``."""
    from accelerate import Accelerator
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
        # A model has heads for several objectives and trains only those of one.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.num_processes != world_size():
        raise TrainingError(
            f"{world_size()} processes were started, but {accelerator.num_processes} form the training group",
            wanted="one group of all processes",
            where="accelerate",
            fix="start with torchrun --nproc-per-node=N -m scmf train ...",
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
