"""The verbs ``finetune``, a model trained further on cells of a user, and ``predict``, what it says of other cells.

Lives here: parsing and printing. Lives elsewhere: the training (scmf.experiments.finetune), the labels
(scmf.evaluation.predict).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmf.cli.options import (
    BatchKey,
    BatchSize,
    Counts,
    Device,
    GeneIds,
    Json,
    LowCoverage,
    Quiet,
    Rounding,
    Set,
    Variant,
    names_of,
    rounding_of,
    sets_of,
)
from scmf.cli.output import print_answer, print_json, print_scores

TUNED = "runs/finetuned-TIME"


def finetune(
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", help="Folder of a run or checkpoint, geneformer@v2-104m (`scmf models ls`), Hub id."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="An .h5ad file, a zarr group, a pattern, or a dataset card.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="cell_type_annotation, or pretraining.", show_default="cell_type_annotation"),
    ] = None,
    eval_: Annotated[
        str | None,
        typer.Option("--eval", help="Score the run when it is trained: annotation, integration."),
    ] = None,
    label_key: Annotated[
        str | None, typer.Option("--label-key", help="Column of obs with the labels; a usual name if not given.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="TSV of cell_id and split, or a split of the dataset card.")
    ] = None,
    split_key: Annotated[
        str | None,
        typer.Option("--split-key", help="Make a split that keeps the values of this column whole, such as donor_id."),
    ] = None,
    batch_key: Annotated[
        str | None, typer.Option("--batch-key", help="Column of obs with the batch, for models that read it.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="What is trained: full, frozen (head alone), lora, dora, ia3.", show_default="full"
        ),
    ] = None,
    freeze: Annotated[
        int | None, typer.Option("--freeze", min=0, help="Keep the first N layers as they are.", show_default="0")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option("--class-weights", help="none, or balanced.", show_default="none")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the training cells.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=1,
            help="Stop after N epochs without a lower validation loss and keep the best.",
            show_default="3, with --config what it says",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate; by method if not given.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Cells in a batch.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Short for --set training.seed=N.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the run; an interrupted run there resumes.", show_default=TUNED),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="YAML: data, model.checkpoint, eval.finetune; options go above it.")
    ] = None,
    variant: Variant = None,
    overrides: Set = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model for the labels of your cells, or go on pretraining it on them.

    The result is the folder of a run, which every command takes that takes a model. Cells without a label are left out
    and counted. LoRA, DoRA and IA3 need peft: pip install "scmodelforge[finetune]".
    """
    from scmf.experiments.finetune import finetune as run_finetune
    from scmf.experiments.finetune_recipe import FinetuneRequest

    request = FinetuneRequest.of(
        base_model, data, task=task, benchmarks=names_of(eval_ or ""), label_key=label_key, split=split,
        batch_key=batch_key, method=method, freeze=freeze, class_weights=class_weights, epochs=epochs,
        patience=patience, lr=lr, batch_size=batch_size, config=config, variant=variant,
        overrides=sets_of(overrides, seed=seed, allow_low_coverage=allow_low_coverage),
    )  # fmt: skip
    made = run_finetune(request, out, split_key=split_key)
    if json_:
        scores = {"scores": [score.to_json() for score in made.scores]} if made.scores else {}
        print_json(made.answer | scores)
        return
    print_answer(made.answer, as_json=False)
    if made.scores:
        print_scores(made.scores)


def predict(
    model: Annotated[str, typer.Argument(help="Folder of a fine-tuned run or checkpoint, or its id on the Hub.")],
    file: Annotated[str, typer.Argument(help="An .h5ad file or zarr group with raw counts.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New file; <file>.predicted.h5ad (of zarr: .zarr) if not given."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Name in obs, obsm and uns; predicted_<label column> if not given.")
    ] = None,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
    batch_key: BatchKey = None,
    batch_size: BatchSize = None,
    device: Device = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the label of every cell, with the probabilities of all classes, into a copy of an AnnData file."""
    from scmf.evaluation.predict import predict_to_file

    answer = predict_to_file(
        model, file, output=out, key=key, counts=counts, gene_ids=gene_ids,
        counts_rounding=rounding_of(counts_rounding), batch_key=batch_key, batch_size=batch_size, device=device,
        allow_low_coverage=allow_low_coverage,
    )  # fmt: skip
    print_answer(answer, as_json=json_)
