"""What `scmf plan` predicts against what training takes: seconds and peak memory on this machine, three configurations.

    OMP_NUM_THREADS=2 python benchmarks/training_plan.py

Each plan and each run is a process of its own. Memory is what a run adds to that of a process which holds the cells and
their tokens (peak resident memory, which Linux lets a process reset). Writes training_plan.json beside this file; exit
code 1 when a prediction is more than 25 % from what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

GOAL = 0.25
CELLS, GENES = 240, 3_000
CASES = {
    "transformer_encoder, 6 x 256, 1,024 tokens": {
        "tokenizer": {"strategy": "rank_value", "max_length": 1024, "min_cells": 1},
        "model": {"architecture": "transformer_encoder", "hidden_dim": 256, "num_layers": 6, "num_heads": 4,
                  "ffn_dim": 512},
        "training": {"pretraining_task": "masked_gene_prediction", "batch_size": 6, "max_steps": 15},
    },
    "generative_transformer, 4 x 256, 600 tokens": {
        "tokenizer": {"strategy": "binned", "max_length": 600, "min_cells": 1, "options": {"n_bins": 51}},
        "model": {"architecture": "generative_transformer", "hidden_dim": 256, "num_layers": 4, "num_heads": 4,
                  "ffn_dim": 256},
        "training": {"pretraining_task": "generative_value_prediction", "batch_size": 8, "max_steps": 15},
    },
    "autoregressive_transformer, 4 x 384, 512 tokens": {
        "tokenizer": {"strategy": "gene_embedding", "max_length": 512, "min_cells": 1,
                      "options": {"vectors": "fit", "dimensions": 64, "order": "random"}},
        "model": {"architecture": "autoregressive_transformer", "hidden_dim": 384, "num_layers": 4, "num_heads": 4,
                  "ffn_dim": 1024},
        "training": {"pretraining_task": "next_gene_prediction", "batch_size": 4, "max_steps": 15},
    },
}  # fmt: skip

RUN = """
import json, re, sys
from pathlib import Path
import torch
from scmf.core.config.recipe import load_recipe
from scmf.training.data import prepare
from scmf.training.pretrain import pretrain

def memory(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

recipe = load_recipe(sys.argv[1])
prepared = prepare(recipe.config)
torch.nn.functional.scaled_dot_product_attention(*[torch.rand(1, 1, 8, 8, requires_grad=True)] * 3).sum().backward()
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
_, report = pretrain(recipe, prepared, Path(sys.argv[2]))
print(json.dumps({"seconds": report.seconds, "memory": memory("VmHWM") - before, "steps": report.steps}))
"""


def cells(path: Path) -> None:
    """Cells with 200 to 1,500 genes."""
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(GENES, rng.integers(200, 1500), replace=False)) for _ in range(CELLS)]
    counts = [1 + rng.geometric(0.4, size=len(row)) for row in rows]
    matrix = sp.csr_matrix(
        (np.concatenate(counts).astype(np.float32), np.concatenate(rows), np.cumsum([0, *map(len, rows)])),
        shape=(CELLS, GENES),
    )
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(1, GENES + 1)])
    ad.AnnData(matrix, obs=pd.DataFrame(index=[f"c{i}" for i in range(CELLS)]), var=var).write_h5ad(path)


def python(*arguments: str) -> dict:
    """The JSON that a process prints last."""
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout[done.stdout.index("{") :])


def main() -> int:
    found, worst = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        cells(here / "cells.h5ad")
        for number, (name, sections) in enumerate(CASES.items()):
            config = {"data": {"files": [str(here / "cells.h5ad")]}, "eval": {"every_n_epochs": 0, "benchmarks": []}}
            (here / f"{number}.yaml").write_text(json.dumps(config | sections))
            plan = python("-m", "scmf", "plan", str(here / f"{number}.yaml"), "--json", "--quiet")
            run = python("-c", RUN, str(here / f"{number}.yaml"), str(here / f"run{number}"))
            assert plan["steps"] == run["steps"]
            ratios = {"seconds": plan["seconds"] / run["seconds"], "memory": plan["memory_total"] / run["memory"]}
            worst = max(worst, *(abs(ratio - 1) for ratio in ratios.values()))
            found[name] = {
                "parameters": plan["parameters"],
                "predicted": {"seconds": plan["seconds"], "memory": plan["memory_total"]},
                "measured": {key: run[key] for key in ("seconds", "memory")},
                "predicted_to_measured": ratios,
            }
            print(f"{name}: " + ", ".join(f"{key} {ratio:.2f}" for key, ratio in ratios.items()), flush=True)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    machine = {"cpu": cpu.group(1) if cpu else platform.processor(), "threads": os.environ.get("OMP_NUM_THREADS")}
    result = {"goal": f"within {GOAL:.0%}", "worst": worst, "machine": machine, "cases": found}
    (Path(__file__).parent / "training_plan.json").write_text(json.dumps(result, indent=1) + "\n")
    return int(worst > GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
