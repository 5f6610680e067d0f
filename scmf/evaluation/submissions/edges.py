"""A table of edges between genes as a submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.errors import EvaluationError, reading
from scmf.evaluation.submissions.protocol import EmptySubmission
from scmf.evaluation.tasks import Task


@dataclass(frozen=True)
class EdgesSubmission(EmptySubmission):
    """Edges ``regulator, target, weight`` in a .tsv or .csv file."""

    file: Path

    def edges(self, task: Task, adata: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """The table."""
        import pandas as pd

        with reading(EvaluationError, what="the table of edges", where=self.file, wanted="a .tsv or .csv of edges"):
            table = pd.read_csv(self.file, sep=None, engine="python")
        wanted = ["regulator", "target", "weight"]
        if not set(wanted) <= set(table.columns):
            raise EvaluationError(
                f"columns {', '.join(map(str, table.columns))}", wanted=", ".join(wanted), where=self.file,
                fix="name the columns so",
            )  # fmt: skip
        return {"edges": table[wanted]}
