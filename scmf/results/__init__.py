"""Measured facts: the result, its file, judging against expected samples. Needs neither torch nor anndata."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "expected": "Expected load_expected",
        "judge": "Verdict band",
        "ledger": "read_results write_result",
        "metric": "Metric MetricTable",
        "result": "Absence Result",
        "score": "Interval Score",
        "significance": "differ",
    },
)
