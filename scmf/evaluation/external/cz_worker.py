"""One task of cz-benchmarks, run by the interpreter of an environment that has it.

A program of its own: it imports nothing of scmf, which that environment need not have. Lives here: reading the cells,
running the task, writing its metrics. Lives elsewhere: who starts it and what becomes of the numbers (cz_run).

::

    python cz_worker.py JOB.json ANSWER.json

``JOB``: ``adata``, ``obsm_key``, ``task``, ``label_key``, ``batch_key`` or null, ``missing`` (texts that stand for no
value), ``seed``. ``ANSWER``: ``version``, ``packages``, ``n_cells``, ``seconds`` and ``metrics`` as cz-benchmarks
writes them. Exit code 7: not installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

MISSING = 7
"""Exit code when the environment has no cz-benchmarks."""

PACKAGES = ("cz-benchmarks", "numpy", "scikit-learn", "scanpy", "scib-metrics", "igraph")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run the task of a job.

    Returns
    -------
    dict
        The answer, see above.
    """
    import anndata
    import numpy as np
    from czbenchmarks import tasks  # type: ignore[import-not-found,unused-ignore]

    cells = anndata.read_h5ad(job["adata"])
    for key in filter(None, (job["label_key"], job["batch_key"])):  # a missing value is no class
        column = cells.obs[key]
        cells = cells[(column.notna() & ~column.astype(str).str.strip().isin(job["missing"])).to_numpy()].copy()
    x_ND = np.asarray(cells.obsm[job["obsm_key"]])
    labels = cells.obs[job["label_key"]]
    started = time.perf_counter()
    if job["task"] == "clustering":
        task = tasks.ClusteringTask(random_seed=job["seed"])
        given = tasks.ClusteringTaskInput(obs=cells.obs, input_labels=labels, use_rep="X")
    elif job["task"] == "embedding":
        task = tasks.EmbeddingTask(random_seed=job["seed"])
        given = tasks.EmbeddingTaskInput(input_labels=labels)
    elif job["task"] == "label_prediction":
        task = tasks.MetadataLabelPredictionTask(random_seed=job["seed"])
        given = tasks.MetadataLabelPredictionTaskInput(labels=labels)
    else:
        task = tasks.BatchIntegrationTask(random_seed=job["seed"])
        given = tasks.BatchIntegrationTaskInput(labels=labels, batch_labels=cells.obs[job["batch_key"]])
    found = task.run(x_ND, given)
    return {
        "version": importlib.metadata.version("cz-benchmarks"),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        "n_cells": len(x_ND),
        "seconds": time.perf_counter() - started,
        "metrics": [metric.model_dump(mode="json") for metric in found],
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main(job: str, answer: str) -> int:
    """Read the job, write the answer; the exit code."""
    if importlib.util.find_spec("czbenchmarks") is None:
        return MISSING
    found = run(json.loads(Path(job).read_text(encoding="utf-8")))
    Path(answer).write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
