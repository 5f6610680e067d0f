"""GPUs and what an hour of them costs: the one table, each figure with its source and its date.

Peaks are dense bf16 matrix products, as manufacturers state them. Prices are list prices on demand, without discounts,
storage and traffic; other providers ask up to four times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from scmf.core import registry
from scmf.core.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Parameters
    ----------
    name
        As ``scmf plan --gpu`` takes it.
    memory_gb
        Memory, in 1e9 bytes.
    peak_tflops
        Dense bf16 matrix products, in 1e12 operations a second.
    peak_source
        Where the peak was read.
    usd_per_hour
        Price of one GPU.
    price_source, price_date
        Whose price it is, and when it was read there.
    """

    name: str
    memory_gb: float
    peak_tflops: float
    peak_source: str
    usd_per_hour: float
    price_source: str
    price_date: str


_A100 = "NVIDIA A100 datasheet r4, as quoted by glennklockwood.com/garden/processors/A100 (read 2026-11-29)"
GPUS = (
    Gpu("A100-40GB", 40, 312, _A100, 1.99, "Lambda, 8x A100 SXM 40 GB, lambda.ai/instances", "2026-09-20"),
    Gpu("A100-80GB", 80, 312, _A100, 2.79, "Lambda, 8x A100 SXM 80 GB, lambda.ai/instances", "2026-09-20"),
    Gpu(
        "H100", 80, 989, "H100 SXM5: itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html, which gives it for "
        "the same silicon (2026-06-22)",
        3.99, "Lambda, 8x H100 SXM, lambda.ai/instances", "2026-09-20",
    ),
    Gpu(
        "H200", 141, 989, "itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html (2026-06-22)",
        4.59, "RunPod, H200, runpod.io/pricing", "2026-10-07",
    ),
    Gpu(
        "RTX-4090", 24, 165, "NVIDIA Ada, as quoted by gist.github.com/mikasenghaas (read 2026-11-29)",
        0.29, "OpenRelay, RTX 4090 24 GB, openrelay.inc/gpu-pricing-calculator", "2026-09-20",
    ),
)  # fmt: skip


def gpus_named(names: list[str]) -> list[Gpu]:
    """The GPUs of these names; all without a name.

    Raises
    ------
    ConfigError
        The table does not have a name.
    """
    known = {gpu.name.lower(): gpu for gpu in GPUS}
    for name in names:
        if name.lower() not in known:
            raise ConfigError(
                f"--gpu {name}", wanted=f"one of {', '.join(gpu.name for gpu in GPUS)}", where="--gpu",
                fix=registry.did_you_mean(name, [gpu.name for gpu in GPUS]),
            )  # fmt: skip
    return [known[name.lower()] for name in names] or list(GPUS)
