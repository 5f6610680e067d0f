"""Result: one measured fact with its provenance, one JSON file. The one format that travels between programs.

Lives here: what a result holds, which number is meant (`CellKey`), why there is none (`Absence`). Lives elsewhere: the
score it comes from (score, record), files (ledger), JSON of earlier versions (schema), verdicts (judge).
"""

from __future__ import annotations

import math
import re
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from scmf.core.config.section import Section
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.shareable import shareable
from scmf.results.schema import upgrade
from scmf.results.score import Interval

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


ALL_CELLS = "all"
"""Stands for the split of a run that was trained without one, in the names of corpora."""


class CellKey(NamedTuple):
    """The seven names that say which number is meant."""

    variant: str
    dataset: str
    split: str
    benchmark: str
    protocol: str
    method: str
    metric: str

    def __str__(self) -> str:
        return (
            f"{self.variant}/{self.dataset}.{self.split}/{self.benchmark}.{self.protocol}.{self.method}/{self.metric}"
        )


class Absence(Section):
    """Why there is no number."""

    model_config = ConfigDict(strict=True)

    kind: Literal["missing", "failed", "not_applicable"]
    reason: str = Field(min_length=1)
    """One clause for the page, for example ``needs scib-metrics, which is not installed``."""

    @field_validator("reason", mode="before")
    @classmethod
    def _for_others(cls, reason: Any) -> Any:
        return shareable(reason)


class Result(Section):
    """One measured fact with its provenance."""

    model_config = ConfigDict(strict=True)

    schema_version: Literal[2] = 2
    """Version of the JSON; files of an earlier one are read by `scmf.results.schema.upgrade`."""
    recipe: str
    variant: str
    tier: Literal["parity", "mini", "published"]
    benchmark: str
    """Name of the benchmark, or ``pretraining`` for losses of the training run."""
    dataset: str
    split: str
    protocol: str
    """``linear_probe``, ``knn_probe``, ``finetuned_head``, ``scib``, ``pretraining``…"""
    method: str
    """``pretrained``, ``untrained``, or a baseline such as ``majority``, ``hvg_logreg``, ``pca_logreg``."""
    seed: int | None
    """None for a deterministic method."""
    metrics: dict[str, float]
    """Metric to value; empty when ``absence`` says why."""
    definitions: dict[str, str]
    """Metric to one line: what is computed, by which package and version."""
    higher_is_better: dict[str, bool]
    """Metric to direction."""
    labels: dict[str, str] = {}
    """Metric to how pages call it, where that is not its name with spaces."""
    columns: tuple[str, ...] = Field((), strict=False)
    """Metrics of the benchmark that are columns of a table, in order, whether measured here or not."""
    heads: tuple[str, ...] = Field((), strict=False)
    """Those of ``columns`` that may decide which method is called best."""
    n_cells: int | None = None
    """Cells that were scored."""
    n_train: int | None = None
    """Cells that a probe or a baseline was fitted on."""
    recipe_digest: str
    """Digest of recipe and variant; ties the result to what was run."""
    provenance: dict[str, Any]
    """See `scmf.core.provenance.collect`."""
    command: str
    """What to type to measure it again."""
    seconds: float | None = None
    """Wall time of the measurement."""
    peak_memory_mb: float | None = None
    """Highest resident memory, in MiB."""
    parameters: int | None = None
    """Parameters of the network; None for a method without one."""
    corpora: tuple[str, ...] = Field((), strict=False)
    """What the method was trained on before it saw the training cells: names as in ``part_of`` of cards."""
    intervals: dict[str, Interval] = {}
    """Metric to its interval, where one was drawn."""
    details: dict[str, Any] = {}
    """What plots show beside the numbers: ``per_class``, ``per_perturbation``, ``confusion``. Never judged."""
    absence: Absence | None = None

    @field_validator("provenance", "command", "corpora", mode="before")
    @classmethod
    def _for_others(cls, value: Any, about: ValidationInfo) -> Any:
        """No secrets, no folders of this machine: results are shown, filed and sent."""
        return shareable(value, key=str(about.field_name))

    @field_validator("recipe", "variant", "benchmark", "dataset", "split", "protocol", "method")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("becomes part of a file name: letters, digits, _ and - only")
        return name

    @field_validator("metrics", mode="before")
    @classmethod
    def _finite(cls, metrics: Any) -> Any:
        if not isinstance(metrics, dict):
            return metrics
        for name, value in metrics.items():
            if isinstance(value, Real) and not math.isfinite(value):
                raise EvaluationError(
                    f"metric {name!r} is {float(value)}",
                    wanted="a finite number",
                    fix="file an absence of kind `failed` with the reason instead of a number",
                )
        # numpy scalars become floats; strings and booleans stay, and are refused by the type
        number = {name: isinstance(value, Real) and not isinstance(value, bool) for name, value in metrics.items()}
        return {name: float(value) if number[name] else value for name, value in metrics.items()}

    @model_validator(mode="after")
    def _complete(self) -> Result:
        if bool(self.metrics) == (self.absence is not None):
            raise ValueError("a result has either metrics or an absence that says why it has none")
        for field in ("definitions", "higher_is_better"):
            if lacking := sorted(set(self.metrics) - set(getattr(self, field))):
                raise ValueError(f"{field} lacks the metric {lacking[0]!r}")
        return self

    def key(self, metric: str) -> CellKey:
        """Which number of which cell ``metric`` is."""
        return CellKey(self.variant, self.dataset, self.split, self.benchmark, self.protocol, self.method, metric)

    @property
    def path(self) -> Path:
        """Place of the file, relative to the folder of results."""
        seed = "none" if self.seed is None else self.seed
        name = f"{self.benchmark}.{self.protocol}.{self.method}.seed{seed}.json"
        return Path(self.recipe, self.variant, f"{self.dataset}.{self.split}", name)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any, *, where: str = "a result") -> Result:
        """Build a result from a JSON object of any version; an unknown key is an error.

        Raises
        ------
        ConfigError
            A key is unknown, missing or of the wrong type; ``where`` names the file.
        """
        try:
            return validate(cls, upgrade(value), where=where)
        except EvaluationError as error:
            raise ConfigError(error.found, wanted=error.wanted, where=where, fix="measure it again") from error
