"""From a score to a result: the one place where provenance, peak memory and digest are put beside numbers.

Lives here: what all scores of one measurement share, and the result of each. Lives elsewhere: the score (score), the
program and the machine (scmf.core.provenance), files (ledger).
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scmf.core import provenance
from scmf.results.result import Absence, Result
from scmf.results.score import Score

_DATA = ("dataset", "sha256", "split", "split_sha256")


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MiB."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


@dataclass(frozen=True)
class Measurement:
    """What all scores of one method on the same cells share.

    Parameters
    ----------
    recipe, variant, tier
        What was measured; the tier is ``parity``, ``mini`` or ``published``.
    dataset, split
        On which cells; become parts of a file name.
    recipe_digest
        Digest of recipe and variant.
    command
        What to type to measure it again.
    data
        Facts of the cells, of which ``dataset``, ``sha256``, ``split`` and ``split_sha256`` enter the provenance.
    seed
        Seed of the run; None for a deterministic method.
    parameters, corpora
        Of the network, and what it was trained on before.
    more
        Further facts for the provenance, such as the task or overrides of the recipe.
    """

    recipe: str
    variant: str
    tier: str
    dataset: str
    split: str
    recipe_digest: str
    command: str
    data: Mapping[str, Any]
    seed: int | None = None
    parameters: int | None = None
    corpora: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def result(self, score: Score, *, detailed: bool = True) -> Result:
        """The result of a score.

        Parameters
        ----------
        score
            Metrics of one method under one protocol.
        detailed
            Keep intervals and details. Numbers that are judged over seeds of training need neither.
        """
        return Result(
            **self._facts(),
            benchmark=score.benchmark,
            protocol=score.protocol,
            method=score.method,
            metrics=score.metrics,
            definitions=score.definitions,
            higher_is_better=score.higher_is_better,
            labels=score.labels,
            columns=score.columns,
            heads=score.heads,
            n_cells=score.n_cells,
            n_train=score.n_train,
            seconds=round(score.seconds, 2),
            intervals=score.intervals if detailed else {},
            details=score.details if detailed else {},
        )

    def absent(self, benchmark: str, reason: str, *, seconds: float) -> Result:
        """The result that says why a benchmark could not be scored at all, under any protocol."""
        return Result(
            **self._facts(),
            benchmark=benchmark,
            protocol="any",
            method="any",
            metrics={},
            definitions={},
            higher_is_better={},
            seconds=round(seconds, 2),
            absence=Absence(kind="not_applicable", reason=reason),
        )

    def _facts(self) -> dict[str, Any]:
        data = {key: self.data[key] for key in _DATA}
        return {
            "recipe": self.recipe,
            "variant": self.variant,
            "tier": self.tier,
            "dataset": self.dataset,
            "split": self.split,
            "seed": self.seed,
            "recipe_digest": self.recipe_digest,
            "provenance": provenance.collect(data=data, seed=self.seed, **self.more),
            "command": self.command,
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "parameters": self.parameters,
            "corpora": self.corpora,
        }
