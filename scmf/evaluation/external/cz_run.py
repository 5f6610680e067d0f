"""Tasks of cz-benchmarks on an embedding in an AnnData file, run in an environment of their own.

cz-benchmarks brings its own pins of packages that move numbers here, so that it is never installed beside scmf. Lives
here: starting the program, its answer as a Score. Lives elsewhere: the program (cz_worker), result files (cz_schema).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.files import write_json
from scmf.data.genes.ids import MISSING_TEXTS
from scmf.evaluation.external import cz_worker
from scmf.evaluation.external.cz_schema import TASKS, VERSION, higher_is_better, metric_name
from scmf.results.score import Score

RUNNABLE = ("clustering", "embedding", "label_prediction", "batch_integration")
"""Tasks that need one embedding with labels; the last needs batches, too."""

SEED = 42
"""Seed of cz-benchmarks."""

INSTALL = f"python3.11 -m venv PEER && PEER/bin/pip install cz-benchmarks=={VERSION}, then name PEER/bin/python"


def run_cz_task(
    python: Path | str,
    adata_path: Path | str,
    obsm_key: str,
    task: str,
    *,
    label_key: str,
    batch_key: str | None = None,
    method: str = "pretrained",
    seed: int = SEED,
    timeout: float = 3600.0,
) -> Score:
    """Run one task and return its metrics.

    Parameters
    ----------
    python
        Interpreter of the environment that has cz-benchmarks.
    adata_path, obsm_key
        An .h5ad file and the key of an embedding (N, D) in its ``obsm``.
    task
        One of `RUNNABLE`.
    label_key, batch_key
        Columns of ``obs``; batches for ``batch_integration`` alone.
    method
        Name of the embedding.
    seed
        Seed of the task.
    timeout
        Seconds after which it is given up.

    Raises
    ------
    ConfigError
        Unknown task, no such file, or no batches for a task that needs them.
    EvaluationError
        The interpreter does not run or has no cz-benchmarks, the task failed, or it took too long.
    """
    if task not in RUNNABLE:
        raise ConfigError(f"task {task!r}", wanted=f"one of {', '.join(RUNNABLE)}", where="run_cz_task", fix="name one")
    if task == "batch_integration" and batch_key is None:
        raise ConfigError("no batch_key", wanted="a column with batches", where=f"task {task}", fix="name it")
    if not Path(adata_path).is_file():
        raise ConfigError("no such file", wanted="an .h5ad file", where=adata_path, fix="check the path")
    job = {
        "adata": str(Path(adata_path).resolve()),
        "obsm_key": obsm_key,
        "task": task,
        "label_key": label_key,
        "batch_key": batch_key,
        "missing": sorted(MISSING_TEXTS),
        "seed": seed,
    }
    return score_of(_ask(Path(python), job, timeout), task, method=method)


def _ask(python: Path, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scmf-cz-") as folder:
        asked, answer = write_json(Path(folder, "job.json"), dict(job)), Path(folder, "answer.json")
        program = [str(python), str(Path(cz_worker.__file__)), str(asked), str(answer)]
        try:
            run = subprocess.run(program, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
        except OSError as error:
            raise EvaluationError(
                f"does not run: {error.strerror}", wanted="an interpreter with cz-benchmarks", where=python, fix=INSTALL
            ) from error
        except subprocess.TimeoutExpired as error:
            raise EvaluationError(
                f"task {job['task']} not done after {timeout:g} s", wanted="an answer", where=python,
                fix="fewer cells, or a longer timeout",
            ) from error  # fmt: skip
        if run.returncode == cz_worker.MISSING:
            raise EvaluationError(
                "package 'cz-benchmarks' is not installed", wanted=f"cz-benchmarks for task {job['task']}",
                where=python, fix=INSTALL,
            )  # fmt: skip
        if run.returncode or not answer.is_file():
            last = (run.stderr.strip().splitlines() or ["no word"])[-1]
            raise EvaluationError(
                f"task {job['task']} failed: {last}", wanted="metrics", where=python, fix="look at labels and embedding"
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def score_of(answer: Mapping[str, Any], task: str, *, method: str) -> Score:
    """The answer of the program as a Score under the protocol of its task, for example ``cz_clustering``.

    Raises
    ------
    EvaluationError
        A metric is not a finite number.
    """
    benchmark, protocol = TASKS[task]
    metrics = {metric_name(metric): float(metric["value"]) for metric in answer["metrics"]}
    if bad := [name for name, value in metrics.items() if not abs(value) < float("inf")]:
        raise EvaluationError(
            f"{bad[0]} is {metrics[bad[0]]}", wanted="a finite number", where=f"cz-benchmarks, task {task}",
            fix="look at labels and embedding",
        )  # fmt: skip
    by = f"cz-benchmarks {answer['version']}, task {task}"
    return Score(
        benchmark=benchmark,
        protocol=protocol,
        method=method,
        metrics=metrics,
        definitions={name: f"{name} ({by})" for name in metrics},
        n_cells=int(answer["n_cells"]),
        n_train=None,
        seconds=float(answer["seconds"]),
        details={"packages": dict(answer["packages"])},
        higher_is_better={name: higher_is_better(name) for name in metrics},
    )
