"""Predicted cells of a perturbation screen as a submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.data.loading.load import read_file
from scmf.evaluation.perturbation.truth import read_prediction
from scmf.evaluation.submissions.protocol import EmptySubmission
from scmf.evaluation.tasks import Task


@dataclass(frozen=True)
class PredictionsSubmission(EmptySubmission):
    """Predicted cells in an .h5ad file, log-normalized as the truth is."""

    file: Path

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """The cells of the file by covariate and condition."""
        return {"predicted": read_prediction(read_file(self.file), truth, where=self.file)}
