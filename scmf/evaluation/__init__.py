"""Benchmarks and the engine that scores submissions on tasks."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "embed_adata": "embed",
        "embed_file": "embed_to_file",
        "evaluate_adata": "evaluate evaluate_vectors",
        "evaluate_run": "evaluate_folder",
        "predict": "predict_to_file",
        "protocol": "Benchmark",
        "run": "evaluate_tasks",
        "submissions.protocol": "Origin Submission",
        "tasks": "Suite Task load_suite",
    },
)
