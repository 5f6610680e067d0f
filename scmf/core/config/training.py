"""The sections ``training`` and ``eval.finetune`` of every YAML file, and the options of each objective.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (config), what a key does (scmf.training).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from scmf.core.config.section import Section, check_options, known, options_schema, with_defaults


class MaskedValueOptions(Section):
    """Options of ``masked_value_prediction`` (scGPT, fine-tuning)."""

    include_cls: bool = False
    """Let the ``<cls>`` position be masked and predicted, as the official fine-tuning does."""


class GenerativeValueOptions(Section):
    """Options of ``generative_value_prediction`` (scGPT, pretraining)."""

    generated_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Share of the genes of a cell that are generated; one is drawn a batch. ``mask_ratio`` is not read."""
    second_pass_after: int | None = Field(1000, ge=0)
    """After this many optimizer steps, predict once more from the cell embedding; null never does."""

    @field_validator("generated_shares")
    @classmethod
    def _shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or not all(0 < share < 1 for share in shares):
            raise ValueError("generated_shares must be shares between 0 and 1, at least one")
        return shares


class ReadDepthOptions(Section):
    """Options of ``read_depth_aware`` (scFoundation, pretraining)."""

    zero_mask_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the genes without a count that are to be predicted."""
    replace_share: float = Field(0.8, ge=0, le=1)
    """Of the genes to be predicted, the share that is hidden behind the mask."""
    random_share: float = Field(0.1, ge=0, le=1)
    """The share that is shown with the value of another gene of the batch; the rest is shown as it is."""
    downsample_share: float = Field(0.5, ge=0, le=1)
    """Share of the cells that are thinned. Ours: the official distribution is in an unpublished note."""
    rate_alpha: float = Field(2.0, gt=0)
    """A thinned cell keeps each count with a probability drawn from Beta(``rate_alpha``, ``rate_beta``). Ours."""
    rate_beta: float = Field(2.0, gt=0)
    """See ``rate_alpha``."""

    @model_validator(mode="after")
    def _shares_of_one(self) -> ReadDepthOptions:
        if self.replace_share + self.random_share > 1:
            raise ValueError("replace_share and random_share add up to more than 1")
        return self


class NextGeneOptions(Section):
    """Options of ``next_gene_prediction`` (TranscriptFormer, pretraining)."""

    gene_loss_weight: float = Field(1.0, ge=0)
    """Weight of the cross entropy of the next gene beside the loss of its count."""
    shuffle: bool = False
    """Put the genes of each cell into a random order in every batch (official ``shuffle_expressed_each_batch``)."""


OPTIONS: dict[str, type[Section]] = {
    "masked_value_prediction": MaskedValueOptions,
    "generative_value_prediction": GenerativeValueOptions,
    "read_depth_aware": ReadDepthOptions,
    "next_gene_prediction": NextGeneOptions,
}


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
    seed: int = Field(0, ge=0)
    """Seed of weights, order, masks and dropout."""
    checkpoint_every_n_steps: int | None = Field(None, ge=1)
    """Write a resumable checkpoint every so many optimizer steps, besides the one at each epoch's end."""
    keep_checkpoints: int = Field(2, ge=1)
    """Resumable checkpoints to keep."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Dashboards, through accelerate. A JSON-lines log is always written."""
    project: str = "scmf"
    """Project name for the trackers."""
    options: dict[str, Any] = Field({}, json_schema_extra=options_schema(OPTIONS))
    """What only this objective knows."""

    @model_validator(mode="after")
    def _options_of_objective(self) -> TrainingConfig:
        object.__setattr__(self, "options", check_options(self.options, OPTIONS, choice=self.pretraining_task))
        return self

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the objective, defaults included."""
        return with_defaults(self.options, OPTIONS, self.pretraining_task)


class FinetuneConfig(Section):
    """A classification head fine-tuned together with the pretrained model."""

    max_epochs: int = Field(10, ge=1)
    """Passes over the labeled training cells (official default 10)."""
    batch_size: int = Field(12, ge=1)
    """Cells in a batch."""
    lr: float = Field(5e-5, gt=0)
    """Peak learning rate."""
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
