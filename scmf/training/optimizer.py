"""Optimizer and learning-rate schedule of a ``training`` section.

Lives here: which parameters decay, AdamW, the schedule. Lives elsewhere: when they step (loop).
"""

from __future__ import annotations

from typing import Any

import torch

from scmf.core.config.run import TrainingConfig


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters, with weight decay on matrices only (not on biases and layer norms)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_optimizer(model: torch.nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of ``model``."""
    return torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=settings.betas, eps=settings.eps
    )


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainingConfig, *, total_steps: int) -> Any:
    """The learning rate over ``total_steps`` optimizer steps, warm-up included."""
    from transformers import get_scheduler

    return get_scheduler(
        settings.schedule, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=total_steps
    )
