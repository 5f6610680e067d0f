"""`scmf.evaluate`: cells in memory scored as `scmf evaluate` scores those of files.

Lives here: from the arguments to the function of the verb. Lives elsewhere: a run on the benchmarks of its recipe
(evaluate_run), submissions on tasks (run).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from scmf.core.errors import ConfigError
from scmf.core.python_words import for_python
from scmf.data.stores.adata_memory import IN_MEMORY, in_memory
from scmf.evaluation.evaluate_run import evaluate_folder
from scmf.evaluation.run import evaluate_tasks
from scmf.results.result import Result
from scmf.results.score import Score


@for_python
def evaluate(
    adata: AnnData | None,
    model: Path | str,
    *,
    benchmarks: Sequence[str] = (),
    split: Path | str | None = None,
    label_key: str | None = None,
    batch_key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    config: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    batch_size: int | None = None,
    device: str | None = None,
    allow_low_coverage: bool = False,
) -> list[Score]:
    """Score a model on cells in memory, beside its untrained network and the baselines.

    Parameters
    ----------
    adata
        Cells with raw counts: in memory, a view, or backed by a file. Not changed. None: the cells of the run.
    model
        Folder of a run, or a model by name; of a checkpoint with ``config``.
    benchmarks
        ``annotation``, ``integration``; those of the run when empty. No head is fine-tuned on other cells than those of
        the run; the one that a fine-tuned run has is scored.
    split
        TSV of cell_id and split (train, valid, test), which annotation needs.
    label_key, batch_key
        Columns of ``obs``; those of the run when None.
    counts, gene_ids
        As in the section ``data``; as the run has them, where ``adata`` has them too.
    config, variant, overrides
        As in `scmf.core.config.recipe.load_recipe`.
    batch_size, device, allow_low_coverage
        See `scmf.evaluation.evaluate_run.evaluate_folder`.

    Returns
    -------
    list of Score
        ``benchmark``, ``protocol``, ``method``, ``metrics`` of each.
    """
    named = [benchmarks] if isinstance(benchmarks, str) else list(benchmarks)
    texts = [f"eval.benchmarks={json.dumps(named)}"] if named else []
    keys = {"label_key": label_key, "batch_key": batch_key, "split": None if split is None else str(split)}
    if adata is None and (given := [name for name, value in keys.items() if value is not None]):
        raise ConfigError(
            f"{given[0]} without an AnnData", wanted="cells that it belongs to", where="scmf.evaluate",
            fix="give adata, or leave it out: the run knows its own",
        )  # fmt: skip
    held = None
    if adata is not None:
        held = in_memory(adata)
        texts += [f"data.{key}=null" for key in ("dataset", "census", "tokens", "stream", "split")]
        texts += [f"data.files={json.dumps([IN_MEMORY])}"]
        texts += [f"data.counts={json.dumps(counts)}", f"data.gene_ids={json.dumps(gene_ids)}"]
        texts += [f"data.{key}={json.dumps(value)}" for key, value in keys.items() if value is not None]
    return evaluate_folder(
        model, config=config, variant=variant, overrides=(*texts, *overrides), device=device, batch_size=batch_size,
        allow_low_coverage=allow_low_coverage, adata=held,
    )  # fmt: skip


@for_python
def evaluate_vectors(
    adata: AnnData,
    *,
    tasks: Sequence[str],
    name: str,
    obsm: str | None = None,
    by_order: bool = False,
    trained_on: Sequence[str] = (),
    suite: Path | None = None,
    results_dir: Path | str | None = None,
) -> list[Result]:
    """Score vectors of cells, or predicted cells, on tasks of the leaderboard, and file the results.

    Parameters
    ----------
    adata
        Embeddings in ``obsm`` for the cells of the tasks; or predicted cells of a perturbation screen.
    tasks
        Names of tasks, of benchmarks, or ``all`` (`scmf tasks`).
    name
        ``recipe/variant`` under which the results are filed.
    obsm
        Key of the embeddings; None: predicted cells.
    by_order
        The vectors are those of the cells of a task in their order, whatever their ids.
    trained_on
        Corpora that their maker was trained on, for the leak marks.
    suite, results_dir
        See `scmf.evaluation.run.evaluate_tasks`.

    Returns
    -------
    list of Result
        Also those that say why there is no number.
    """
    folder = None if results_dir is None else Path(results_dir)
    tasks = [tasks] if isinstance(tasks, str) else tasks
    return evaluate_tasks(
        in_memory(adata), tasks=tasks, suite=suite, obsm=obsm, by_order=by_order, name=name,
        corpora=tuple(trained_on), results_dir=folder,
    )  # fmt: skip
