"""One accelerate loop for pretraining and fine-tuning, its objectives, batches and checkpoints."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "data": "Prepared prepare",
        "finetune_run": "FinetunedRun",
        "loop": "TrainingReport",
        "objectives.protocol": "Objective",
        "stream_data": "Streamed prepare_stream tokenize_files",
        "validation": "Validation",
    },
)
