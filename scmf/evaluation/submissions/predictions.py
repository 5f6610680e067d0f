"""Predicted cells of a perturbation screen as a submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anndata import AnnData

from scmf.data.loading.load import opened
from scmf.evaluation.perturbation.truth import read_prediction
from scmf.evaluation.submissions.protocol import EmptySubmission
from scmf.evaluation.tasks import Task


@dataclass(frozen=True)
class PredictionsSubmission(EmptySubmission):
    """Predicted cells in an .h5ad file or an AnnData, log-normalized as the truth is."""

    file: Path | AnnData

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """The cells by covariate and condition."""
        adata, where = opened(self.file)
        return {"predicted": read_prediction(adata, truth, where=where)}
