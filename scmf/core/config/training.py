"""The sections ``training`` and ``eval.finetune`` of every YAML file, and the options of each objective.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (config), what a key does (scmf.training).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scmf.core.config.options import check_options, options_schema, with_defaults
from scmf.core.config.section import Section, known


class TrainingConfig(Section):
    """The loop."""

    pretraining_task: Annotated[str, known("objectives")] = "masked_gene_prediction"
    """Name of the objective."""
    mask_ratio: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are to be predicted."""
    batch_size: int = Field(12, ge=1)
    """Cells in a batch, on each device, before gradient accumulation."""
    gradient_accumulation: int = Field(1, ge=1)
    """Batches summed into one optimizer step."""
    max_epochs: int = Field(3, ge=1)
    """Passes over the training cells."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever ``max_epochs`` says."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of forward and backward pass; ``16-mixed`` needs a GPU."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes share a network: ``ddp`` keeps a whole copy in each, ``fsdp`` shards weights, gradients and
    optimizer (FSDP2), ``auto`` is ``fsdp`` where a copy would take over half of a GPU's memory. No number depends on
    it."""
    num_gpus: int | None = Field(None, ge=0)
    """GPUs of each node, one process on each; 0: the CPU; null: one process, on a GPU where there is one."""
    num_processes: int | None = Field(None, ge=1)
    """Processes on each node that train on the CPU, in place of GPUs."""
    num_nodes: int = Field(1, ge=1)
    """Nodes, each with as many processes."""
    optimizer: Literal["adamw"] = "adamw"
    """Optimizer (torch.optim.AdamW)."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """Learning rate after the warm-up (transformers.get_scheduler)."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps in which the learning rate rises linearly from 0."""
    weight_decay: float = Field(0.001, ge=0)
    """AdamW weight decay; not applied to biases and layer norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW betas."""
    eps: float = Field(1e-8, gt=0)
    """AdamW epsilon."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Clip the gradient to this 2-norm; null does not clip."""
    group_by_length: bool = True
    """Batch cells of similar length (less padding)."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of weights, order, masks and dropout."""
    checkpoint_every_n_steps: int | None = Field(None, ge=1)
    """Write a resumable checkpoint every so many optimizer steps, besides the one at each epoch's end."""
    keep_checkpoints: int = Field(2, ge=1)
    """Resumable checkpoints to keep."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Dashboards, through accelerate. A JSON-lines log is always written."""
    project: str = "scmf"
    """Project name for the trackers."""
    options: dict[str, Any] = Field({}, json_schema_extra=options_schema("objectives"))
    """What only this objective knows."""

    @model_validator(mode="after")
    def _options_of_objective(self) -> TrainingConfig:
        object.__setattr__(self, "options", check_options("objectives", self.pretraining_task, self.options))
        return self

    @model_validator(mode="after")
    def _gpus_or_processes(self) -> TrainingConfig:
        if self.num_gpus and self.num_processes:
            raise ValueError(
                f"num_gpus {self.num_gpus} and num_processes {self.num_processes}: one process runs on each GPU, "
                "num_processes counts those on the CPU; give one of the two"
            )
        return self

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the objective, defaults included."""
        return with_defaults("objectives", self.pretraining_task, self.options)


Task = Literal["cell_type_annotation", "pretraining"]
"""What a published model can be trained further for."""

Method = Literal["full", "frozen", "lora", "dora", "ia3"]
"""What of a pretrained network is trained beside the new head."""

_LR: dict[str, float] = {"full": 5e-5, "frozen": 1e-3, "lora": 5e-4, "dora": 5e-4, "ia3": 5e-3}
"""Peak learning rate where none is given: the fewer weights move, the farther they have to."""


class FinetuneConfig(Section):
    """A classification head fine-tuned together with the pretrained model."""

    task: Task = "cell_type_annotation"
    """What `scmf finetune` trains for; ``pretraining`` goes on under the objective of ``training``."""
    method: Method = "full"
    """``full``: all weights; ``frozen``: the head alone; ``lora``, ``dora``, ``ia3``: adapters in the layers (peft)."""
    rank: int = Field(8, ge=1)
    """Of ``lora`` and ``dora``: rank of the update of a weight."""
    alpha: int = Field(16, ge=1)
    """Of ``lora`` and ``dora``: the update counts ``alpha`` / ``rank`` times."""
    adapter_dropout: float = Field(0.0, ge=0, lt=1)
    """Of ``lora`` and ``dora``: dropout on the input of the update."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: a cell counts inversely to the training cells of its class, one on average."""
    patience: int | None = Field(None, ge=1)
    """Keep the weights of the epoch with the lowest validation loss and stop after so many epochs without a lower one;
    null runs all epochs and keeps the last."""
    max_epochs: int = Field(10, ge=1)
    """Passes over the labeled training cells (official default 10)."""
    batch_size: int = Field(12, ge=1)
    """Cells in a batch."""
    lr: float = Field(5e-5, gt=0)
    """Peak learning rate; if not given 5e-5, with ``frozen`` 1e-3, ``lora`` and ``dora`` 5e-4, ``ia3`` 5e-3."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """Learning rate after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps of warm-up."""
    weight_decay: float = Field(0.001, ge=0)
    """AdamW weight decay."""
    freeze_layers: int = Field(0, ge=0)
    """Number of first layers whose weights stay as pretrained; embeddings are trained, as in the official code."""
    pooling: Literal["first", "mean", "max"] = "first"
    """What the head reads: the first position (Geneformer, scGPT), the mean over genes, the maximum (scFoundation)."""

    @model_validator(mode="before")
    @classmethod
    def _rate_of_method(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "lr" not in raw and raw.get("method") in _LR:
            return {**raw, "lr": _LR[raw["method"]]}
        return raw

    @property
    def loop(self) -> dict[str, Any]:
        """The keys that the section ``training`` has too."""
        keys = ("max_epochs", "batch_size", "lr", "schedule", "warmup_steps", "weight_decay")
        return {key: getattr(self, key) for key in keys}
