"""`scmf.finetune`: a model trained further on an AnnData in memory, as `scmf finetune` does on a file.

A run names the cells it was trained on, from which it resumes and is scored; so it keeps those of an AnnData as a file.
Lives here: from an AnnData to a request. Lives elsewhere: everything that the verb does (finetune), writing the cells
(data.stores.adata_memory).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anndata import AnnData

from scmf.core.outputs import try_folder
from scmf.core.python_words import for_python
from scmf.core.workspace import new_run_folder
from scmf.data.stores.adata_memory import in_memory, write_cells
from scmf.experiments import finetune as verb
from scmf.experiments.finetune_recipe import FinetuneRequest
from scmf.models.run_folder import RunFolder


@for_python
def finetune(
    adata: AnnData,
    model: Path | str | None = None,
    *,
    out: Path | str | None = None,
    task: str | None = None,
    benchmarks: Sequence[str] = (),
    label_key: str | None = None,
    split: Path | str | None = None,
    split_key: str | None = None,
    batch_key: str | None = None,
    method: str | None = None,
    freeze: int | None = None,
    class_weights: str | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    allow_low_coverage: bool = False,
) -> verb.Finetuned:
    """Fine-tune a model for the labels of cells in memory, or go on pretraining it on them.

    The same cells and settings with the same ``out`` resume an interrupted run.

    Parameters
    ----------
    adata
        Cells with raw counts and labels: in memory, a view, or backed by a file. Not changed.
    model
        The model that the weights start from: folder of a run or checkpoint, or a name (`scmf models ls`).
    out
        Folder of the run, which keeps the cells as ``cells.h5ad``; a new one below ``runs/`` when None.
    task
        ``cell_type_annotation`` (the default) or ``pretraining``.
    benchmarks
        ``annotation``, ``integration``: score the run when it is trained.
    label_key
        Column of ``obs`` with the labels; a usual name when None.
    split
        TSV of cell_id and split.
    split_key
        Column whose values lie whole in train, valid or test, where no split is named.
    batch_key
        Column of ``obs`` with the batch, for models that read it.
    method
        ``full`` (the default), ``frozen``, ``lora``, ``dora``, ``ia3``.
    freeze
        Keep the first layers as they are.
    class_weights
        ``none`` (the default) or ``balanced``.
    epochs, patience, lr, batch_size, seed
        Of the training.
    config, variant, overrides
        A YAML file, its variant, and texts ``a.b=v`` as after ``--set``.
    allow_low_coverage
        Take cells of which the vocabulary knows less than a fifth.

    Returns
    -------
    Finetuned
        ``folder`` of the run, which every verb takes that takes a model; ``answer``; ``scores``.
    """
    texts = tuple(overrides) + (() if seed is None else (f"training.seed={seed}",))
    texts += ("data.allow_low_coverage=true",) if allow_low_coverage else ()
    benchmarks = [benchmarks] if isinstance(benchmarks, str) else benchmarks
    held = in_memory(adata)
    folder = new_run_folder("finetuned") if out is None else Path(out)
    run = RunFolder(folder)
    request = FinetuneRequest.of(
        None if model is None else str(model), str(run.cells), task=task, benchmarks=tuple(benchmarks),
        label_key=label_key, split=None if split is None else str(split), batch_key=batch_key, method=method,
        freeze=freeze, class_weights=class_weights, epochs=epochs, patience=patience, lr=lr, batch_size=batch_size,
        config=config, variant=variant, overrides=texts,
    )  # fmt: skip
    request.recipe()  # what is wrong with it is said before anything is written
    try_folder(folder, option="out")
    with _kept(held, run):
        return verb.finetune(request, folder, split_key=split_key)


@contextmanager
def _kept(adata: AnnData, run: RunFolder) -> Iterator[None]:
    """The cells as a file of the run; taken away again where no run came of it."""
    is_new = not run.cells.exists()
    made, had_run = not run.path.exists(), run.note.exists()
    write_cells(adata, run.cells)
    try:
        yield
    except BaseException:
        if is_new and (had_run or not run.note.exists()):
            run.cells.unlink(missing_ok=True)
            if made and run.path.is_dir() and not any(run.path.iterdir()):
                run.path.rmdir()
        raise
