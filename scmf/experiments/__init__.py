"""What is composed of runs and scores: reproductions, regression checks, grids, the leaderboard."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "finetune": "Finetuned",
        "finetune_recipe": "FinetuneRequest",
        "leaderboard": "compare_measured",
        "plan": "Plan",
        "regression": "check_all",
        "reproduce": "Outcome",
        "seeds": "run_seed",
        "tokenizer_grid": "Sweep sweep_tokenizers",
    },
)
