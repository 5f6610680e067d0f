"""Result, Verdict and the ledger of JSON files: the only place that judges a number.

Lives here: what one measurement is, how it is filed, and the rule that compares it with the expected
samples. Lives elsewhere: ``expected.yaml`` and which result belongs to which of its cells
(expectations), pages (report).

The rule, for a stochastic method with at least five expected samples::

    band(a) = max(min_band, t(1 - a/2, n_exp - 1) * sd(expected) * sqrt(1/n_exp + 1/n_obs))
    |mean_obs - mean_exp| <= band(.05)        match
    else, fewer than three observed           undecided: run seeds until there are three
    else, inside band(.01)                    close
    else                                      off, up or down (better than expected is off, too)

A number whose first look, at one seed, lay outside can be close at best: three seeds do not make it a match.

A deterministic method is judged by the min_band alone.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator, model_validator

from scmf.core.config.section import Section
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.files import write_json

MIN_SAMPLES = 5
"""Fewest expected samples of a stochastic method."""

MIN_OBSERVED = 3
"""Observed seeds after which a verdict is final."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


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


class ResultInterval(Section):
    """Where a number would lie if other units had been drawn; keys as in `scmf.evaluation.score.Interval`."""

    model_config = ConfigDict(strict=True)

    low: float
    high: float
    level: float
    unit: str
    n_units: int
    draws: int


class Result(Section):
    """One measured fact with its provenance."""

    model_config = ConfigDict(strict=True)

    schema_version: Literal[1] = 1
    """Version of the JSON; a file of another version is refused."""
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
    intervals: dict[str, ResultInterval] = {}
    """Metric to its interval, where one was drawn."""
    details: dict[str, Any] = {}
    """What plots show beside the numbers: ``per_class``, ``per_perturbation``, ``confusion``. Never judged."""
    absence: Absence | None = None

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
        """Place in the ledger, relative to its root."""
        seed = "none" if self.seed is None else self.seed
        name = f"{self.benchmark}.{self.protocol}.{self.method}.seed{seed}.json"
        return Path(self.recipe, self.variant, f"{self.dataset}.{self.split}", name)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any, *, where: str = "a result") -> Result:
        """Build a result from a JSON object; an unknown key is an error.

        Raises
        ------
        ConfigError
            A key is unknown, missing or of the wrong type; ``where`` names the file.
        """
        try:
            return validate(cls, value, where=where)
        except EvaluationError as error:
            raise ConfigError(error.found, wanted=error.wanted, where=where, fix="measure it again") from error


# --- the ledger -----------------------------------------------------------------------------------


def write_result(root: Path | str, result: Result) -> Path:
    """File ``result`` under ``root`` (atomically, replacing the earlier one of the same cell and seed)."""
    return write_json(Path(root) / result.path, result.to_json())


def read_results(root: Path | str, recipe: str | None = None, *, variant: str | None = None) -> list[Result]:
    """All results under ``root``, sorted by cell and seed.

    Parameters
    ----------
    root
        Folder of the ledger; an absent folder is an empty ledger.
    recipe, variant
        Read only these.

    Raises
    ------
    ConfigError
        A file is broken, or its content belongs under another name.
    """
    root = Path(root)
    pattern = f"{recipe or '*'}/{variant or '*'}/*/*.json"
    found = [_read(root, path) for path in root.glob(pattern) if not path.name.startswith(".")]
    return sorted(found, key=lambda result: (*result.key(""), -1 if result.seed is None else result.seed))


def _read(root: Path, path: Path) -> Result:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"not JSON: {error}", wanted="one result", where=path, fix="delete the file and measure it again"
        ) from error
    result = Result.from_json(value, where=str(path))
    if root / result.path != path:
        raise ConfigError(
            f"the content belongs to {result.path}",
            wanted="a file name that says what is in it",
            where=path,
            fix="move the file, or delete it and measure again",
        )
    return result


# --- the judge ------------------------------------------------------------------------------------

VerdictKind = Literal["match", "close", "off_up", "off_down", "missing", "failed", "not_applicable", "stale"]


@dataclass(frozen=True)
class Verdict:
    """What the comparison of observed with expected samples says.

    Parameters
    ----------
    kind
        ``match``, ``close``, ``off_up``, ``off_down``, or why there is no comparison: ``missing``,
        ``failed``, ``not_applicable``, ``stale``.
    reason
        One clause; always there when there is no comparison.
    band, delta
        Half-width of the band and observed minus expected mean, in the unit of the metric; None
        without a comparison.
    n_exp, n_obs
        Samples on both sides.
    alpha
        Level of the band; None for a deterministic method.
    undecided
        True when `MIN_OBSERVED` seeds have not been run and the first ones lie outside the band.
    """

    kind: VerdictKind
    reason: str = ""
    band: float | None = None
    delta: float | None = None
    n_exp: int = 0
    n_obs: int = 0
    alpha: float | None = None
    undecided: bool = False

    @property
    def ok(self) -> bool:
        """True for ``match``, ``close`` and ``not_applicable``; all else is an honest no."""
        return self.kind in ("match", "close", "not_applicable")

    @property
    def needs_more_seeds(self) -> int:
        """How many more seeds must run before the verdict is final; 0 when it is."""
        return MIN_OBSERVED - self.n_obs if self.undecided else 0


def band(samples: Sequence[float], n_observed: int, *, min_band: float, alpha: float) -> float:
    """Half-width of the two-sided prediction band for the mean of ``n_observed`` new samples."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    n = len(samples)
    quantile = float(stdtrit(n - 1, 1 - alpha / 2))
    return max(min_band, quantile * statistics.stdev(samples) * math.sqrt(1 / n + 1 / n_observed))


def judge(
    expected_samples: Sequence[float],
    observed_samples: Sequence[float],
    *,
    min_band: float,
    deterministic: bool = False,
    first_look_missed: bool = False,
    left_out: int = 0,
) -> Verdict:
    """Compare observed with expected samples by the rule of this module.

    Parameters
    ----------
    expected_samples, observed_samples
        Raw values, one a seed.
    min_band
        Smallest half-width of the band, in the unit of the metric.
    deterministic
        The method has no seed: the min_band alone decides, and no further seed can help.
    first_look_missed
        The first of the observed seeds, judged alone, lay outside its band: the other seeds were run to decide, so
        that ``close`` is the best there can be. Twice a look at .05 would let too much pass as a match.
    left_out
        Recorded samples that are not among ``expected_samples``, because their seeds are among the observed. One is
        borne by a set of `MIN_SAMPLES`: the band grows with what is left. With more there is no verdict.

    Raises
    ------
    EvaluationError
        A value is not finite or the min_band is negative.
    """
    expected, observed = [float(x) for x in expected_samples], [float(x) for x in observed_samples]
    if not all(map(math.isfinite, [*expected, *observed, min_band])) or min_band < 0:
        raise EvaluationError(
            f"samples {expected} and {observed}, min_band {min_band}",
            wanted="finite samples and a min_band of 0 or more",
            where="scmf.results.result.judge",
            fix="mend expected.yaml or measure again",
        )
    n_exp, n_obs = len(expected), len(observed)
    if not deterministic and n_exp + left_out < MIN_SAMPLES:
        reason = f"fewer than {MIN_SAMPLES} expected samples ({n_exp + left_out})"
        return Verdict("missing", reason, n_exp=n_exp, n_obs=n_obs)
    if not deterministic and n_exp < MIN_SAMPLES - 1:
        reason = f"{left_out} of the seeds are expected samples themselves, {n_exp} others are left"
        return Verdict("missing", reason, n_exp=n_exp, n_obs=n_obs)
    if not n_exp or not n_obs:
        return Verdict("missing", f"no {'observed' if n_exp else 'expected'} value", n_exp=n_exp, n_obs=n_obs)
    # statistics.mean is exact: equal samples have a difference of exactly 0
    delta = statistics.mean(observed) - statistics.mean(expected)
    outside: VerdictKind = "off_up" if delta > 0 else "off_down"
    if deterministic:
        kind = "match" if abs(delta) <= min_band else outside
        return Verdict(kind, band=min_band, delta=delta, n_exp=n_exp, n_obs=n_obs)
    wide = 0.05
    width = band(expected, n_obs, min_band=min_band, alpha=wide)
    if abs(delta) <= width and not first_look_missed:
        return Verdict("match", band=width, delta=delta, n_exp=n_exp, n_obs=n_obs, alpha=wide)
    if n_obs < MIN_OBSERVED:
        reason = f"outside the band; {MIN_OBSERVED - n_obs} more seeds decide"
        return Verdict(outside, reason, band=width, delta=delta, n_exp=n_exp, n_obs=n_obs, alpha=wide, undecided=True)
    strict = 0.01
    width = band(expected, n_obs, min_band=min_band, alpha=strict)
    return Verdict(
        "close" if abs(delta) <= width else outside, band=width, delta=delta, n_exp=n_exp, n_obs=n_obs, alpha=strict
    )


# --- parity ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParityCase:
    """One comparison of our output with the output of the official code.

    Parameters
    ----------
    name
        Path-like name of the case, for example ``tok/adv_plain.V2``.
    compared
        What was compared, for example ``17 cells, 31,020 tokens`` or ``tensor logits (8, 120, 320)``.
    passed
        True when everything is within the tolerance.
    difference
        Largest difference in the unit of the tolerance; 0 for identical tokens.
    tolerance
        Largest difference allowed; 0 asks for identity.
    detail
        Where the first difference is, or a remark such as ``427 exact ties compared as sets``.
    """

    name: str
    compared: str
    passed: bool
    difference: float
    tolerance: float
    detail: str = ""
