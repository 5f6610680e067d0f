"""What a recipe should score: the reader and the writer of ``recipes/<name>/expected.yaml``.

Lives here: the format of the file, which result belongs to which of its cells, how results become
expected values. Lives elsewhere: the judging of the numbers (judge).

The file has two lists::

    mini:                          # measured by this code; judged
      - variant: mini              # with the next six keys: which number this is (see CellKey)
        dataset: pancreas
        split: donor
        benchmark: annotation
        protocol: linear_probe
        method: pretrained
        metric: macro_f1
        higher_is_better: true
        min_band: 0.01                # smallest half-width of the band, in the unit of the metric
        samples: {0: 0.91, …}      # seed -> value, never rounded; {null: value} for a deterministic method
        measured_with: {digest: …, commit: …, packages: {…}}
    published:                     # from papers and their repositories; shown beside ours, never judged
      - id: m027                 # see PublishedValue for all keys
        model: …
        task: …
        dataset: …
        split: …
        metric: accuracy
        value: 0.991567
        level: B                   # evidence, A (recomputed from the authors' files) to C (read in the paper)
        source: …                  # repository, commit and path, or paper
        comparable: …              # one sentence: why it is not the number above
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, field_validator, model_validator

from scmf.core.config.section import Section
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.files import write_text
from scmf.core.yaml import dump_yaml, load_yaml
from scmf.results.judge import Verdict, VerdictKind, judge
from scmf.results.result import CellKey, Result

_HEADER = """\
# What this recipe should score. Format: the docstring of scmf/results/expected.py.
# `mini` is written by `scmf reproduce <recipe> --record` from one run a seed and judged by scmf/results/judge.py.
# `published` is copied from its sources by hand and kept by --record; it is shown beside our numbers, never judged.
"""


class MeasuredWith(Section):
    """The program that measured the samples of a cell."""

    model_config = ConfigDict(strict=True)

    digest: str
    """Digest of the recipe; another digest makes the expectation stale."""
    commit: str | None = None
    """Commit of the code, when it ran from a checkout."""
    dirty: bool | None = None
    """True when the checkout had uncommitted changes."""
    python: str | None = None
    """Version of Python."""
    cpu: str | None = None
    """Processor."""
    packages: dict[str, str] = {}
    """Versions of the packages that can move a number."""


class ExpectedCell(Section):
    """One number of the mini tier, as raw samples."""

    model_config = ConfigDict(strict=True)

    variant: str
    dataset: str
    split: str
    benchmark: str
    protocol: str
    method: str
    metric: str
    higher_is_better: bool
    """False for losses and errors."""
    min_band: float
    """Smallest half-width of the band; covers what differs between machines."""
    samples: dict[int | None, float]
    """Seed to value; the single seed null marks a deterministic method."""
    measured_with: MeasuredWith

    @field_validator("min_band")
    @classmethod
    def _not_negative(cls, min_band: float) -> float:
        if min_band < 0:
            raise ValueError("min_band must be 0 or more")
        return min_band

    @model_validator(mode="after")
    def _one_kind_of_samples(self) -> ExpectedCell:
        if not self.samples:
            raise ValueError("samples must hold at least one value")
        if None in self.samples and len(self.samples) > 1:
            raise ValueError("samples has the seed null (deterministic) and must then hold that one value only")
        return self

    @property
    def key(self) -> CellKey:
        """Which number this is."""
        return CellKey(self.variant, self.dataset, self.split, self.benchmark, self.protocol, self.method, self.metric)

    @property
    def deterministic(self) -> bool:
        """True when the method has no seed."""
        return None in self.samples


class PublishedValue(Section):
    """One published number, with its source."""

    model_config = ConfigDict(strict=True)

    id: str
    """Name of the row in the collection of published values."""
    model: str
    """Which model and weights, in the words of the source."""
    task: str
    """What was done with it, in the words of the source."""
    dataset: str
    split: str
    metric: str
    value: float
    level: Literal["A", "A-derived", "B", "C"]
    """Evidence: A recomputed from files of the authors, B an output stored in their repository, C read in the paper."""
    source: str
    """Repository, commit and path, or the paper."""
    doi: str | None = None
    tolerance: float | None = None
    """Spread to expect when the published run itself is repeated."""
    tolerance_basis: str | None = None
    """Where the tolerance comes from."""
    note: str | None = None
    """What else one must know to read the number, for example which epoch."""
    comparable: str
    """How comparable the number is with ours, in words."""


class Expected(Section):
    """Content of ``expected.yaml``."""

    mini: tuple[ExpectedCell, ...] = ()
    published: tuple[PublishedValue, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Expected:
        for name, keys in (
            ("mini", [str(cell.key) for cell in self.mini]),
            ("published", [value.id for value in self.published]),
        ):
            if twice := sorted({key for key in keys if keys.count(key) > 1}):
                raise ValueError(f"{name}: {twice[0]} stands twice")
        return self

    def cells(self, variant: str | None = None) -> dict[CellKey, ExpectedCell]:
        """The expected cells of one variant, or of all, by key."""
        return {cell.key: cell for cell in self.mini if variant in (None, cell.variant)}


def load_expected(path: Path | str) -> Expected:
    """Read ``expected.yaml``.

    Raises
    ------
    ConfigError
        No such file, not YAML, an unknown or missing key, a duplicated cell or id.
    """
    raw = load_yaml(Path(path))
    if not isinstance(raw, dict):
        raise ConfigError("not a mapping", wanted="the keys mini and published", where=path, fix="see its header")
    raw = {key: tuple(value) if isinstance(value, list) else value or () for key, value in raw.items()}
    return validate(Expected, raw, where=str(path))


def write_expected(
    path: Path | str, mini: Sequence[ExpectedCell], *, published: Sequence[PublishedValue] | None = None
) -> Path:
    """Write ``expected.yaml``: replace the variants measured anew, keep everything else.

    Parameters
    ----------
    path
        The file; created when it does not exist.
    mini
        New cells. All old cells of a variant that occurs here are dropped, those of other variants stay.
    published
        New published values; None keeps those in the file.
    """
    path = Path(path)
    old = load_expected(path) if path.exists() else Expected()
    measured = {cell.variant for cell in mini}
    cells = [cell for cell in old.mini if cell.variant not in measured] + list(mini)
    new = Expected(
        mini=tuple(sorted(cells, key=lambda cell: cell.key)),
        published=old.published if published is None else tuple(published),
    )
    return write_text(path, _HEADER + dump_yaml(_plain(new), width=120))


def _plain(expected: Expected) -> dict[str, Any]:
    """Plain lists and dicts; equal `measured_with` are one object, so that YAML writes it once."""
    shared: dict[str, dict[str, Any]] = {}
    cells = []
    for cell in expected.mini:
        row = cell.model_dump()
        row["samples"] = dict(sorted(cell.samples.items(), key=lambda item: item[0] or 0))
        with_what = cell.measured_with.model_dump(exclude_none=True)
        row["measured_with"] = shared.setdefault(cell.measured_with.model_dump_json(), with_what)
        cells.append(row)
    return {"mini": cells, "published": [row.model_dump(exclude_none=True) for row in expected.published]}


# --- results against expected values ------------------------------------------------------------------


def judge_cell(
    cell: ExpectedCell, results: Sequence[Result], *, recipe_digest: str | None = None, first_seed: int | None = None
) -> Verdict:
    """Judge one expected cell by those of ``results`` that belong to it.

    A mean over an incomplete set does not exist: one absent seed makes the cell absent.
    A seed that is an expected sample, too, is not held against itself: that sample is left out of the band.

    Parameters
    ----------
    cell
        The expectation.
    results
        Measured results; others than those of this cell are ignored.
    recipe_digest
        Digest of the recipe as it is now; results of another digest are stale. None asks only that
        expectation and results have the same digest.
    first_seed
        The seed that was run first and alone, when the others were run to decide what it left open.
    """
    mine = [result for result in results if result.key(cell.metric) == cell.key]

    def no(kind: VerdictKind, reason: str) -> Verdict:
        return Verdict(kind, reason, n_exp=len(cell.samples), n_obs=len(mine))

    if not mine:
        return no("missing", "not measured")
    current = recipe_digest or mine[0].recipe_digest
    if cell.measured_with.digest != current:
        reason = f"expected values belong to recipe {cell.measured_with.digest[:12]}, not {current[:12]}"
        return no("stale", reason)
    for result in mine:
        seed = "" if result.seed is None else f"seed {result.seed}: "
        if result.recipe_digest != current:
            return no("stale", f"{seed}measured with recipe {result.recipe_digest[:12]}")
        if result.absence is not None:
            return no(result.absence.kind, seed + result.absence.reason)
        if cell.metric not in result.metrics:
            return no("missing", f"{seed}the result has no such metric")
    observed = {result.seed: result.metrics[cell.metric] for result in mine}
    own = [seed for seed in cell.samples if seed is not None and seed in observed]
    if own and observed == cell.samples:
        return no("not_applicable", "these are the expected samples themselves")
    samples = [value for seed, value in cell.samples.items() if seed not in own]
    ask = partial(judge, samples, min_band=cell.min_band, deterministic=cell.deterministic, left_out=len(own))
    missed = len(observed) > 1 and first_seed in observed and ask([observed[first_seed]]).undecided
    verdict = ask(list(observed.values()), first_look_missed=missed)
    if not own:
        return verdict
    said = f"without the expected sample of seed {', '.join(map(str, own))}"
    return replace(verdict, reason="; ".join(filter(None, [verdict.reason, said])))


def judge_results(
    expected: Expected,
    results: Sequence[Result],
    *,
    variant: str | None = None,
    recipe_digest: str | None = None,
    first_seed: int | None = None,
) -> dict[CellKey, Verdict]:
    """A verdict for every expected cell and for every measured number, sorted by key.

    Numbers without an expectation are ``missing`` in the mini tier; in the other tiers they are
    ``not_applicable``, since published values belong to other data.
    """
    verdicts = {
        key: judge_cell(cell, results, recipe_digest=recipe_digest, first_seed=first_seed)
        for key, cell in expected.cells(variant).items()
    }
    for result in results:
        if variant not in (None, result.variant):
            continue
        in_mini = result.tier == "mini"
        reason = "no expected samples" if in_mini else "no published value on these cells"
        for metric in result.metrics:
            verdict = Verdict("missing" if in_mini else "not_applicable", reason, n_obs=1)
            verdicts.setdefault(result.key(metric), verdict)
    return dict(sorted(verdicts.items()))


def expected_cells(results: Sequence[Result], *, min_bands: Mapping[str, float]) -> list[ExpectedCell]:
    """Expected cells from measured results, for ``--record``; samples are kept as measured.

    Parameters
    ----------
    results
        One result a seed of every cell; results with an absence are refused.
    min_bands
        Metric to the smallest half-width of its band.

    Raises
    ------
    EvaluationError
        A seed is absent, a metric has no min_band, or the seeds of a cell were measured by different
        recipes or packages.
    """
    groups: dict[CellKey, list[Result]] = {}
    for result in results:
        if result.absence is not None:
            raise EvaluationError(
                f"{result.path} has no number: {result.absence.reason}", wanted="a complete set", fix="measure it first"
            )
        for metric in result.metrics:
            groups.setdefault(result.key(metric), []).append(result)
    return [_expected_cell(key, group, min_bands) for key, group in sorted(groups.items())]


def _expected_cell(key: CellKey, group: Sequence[Result], min_bands: Mapping[str, float]) -> ExpectedCell:
    first, with_what = group[0], [_measured_with(result) for result in group]
    if key.metric not in min_bands:
        raise EvaluationError(f"no min_band for {key.metric!r}", wanted="a min_band for every metric", where=key)
    if any(other != with_what[0] for other in with_what):
        raise EvaluationError(
            "seeds measured with different recipes, code or packages",
            wanted="one program for all samples",
            where=key,
            fix="measure all seeds again",
        )
    return ExpectedCell(
        **key._asdict(),
        higher_is_better=first.higher_is_better[key.metric],
        min_band=min_bands[key.metric],
        samples={result.seed: result.metrics[key.metric] for result in group},
        measured_with=with_what[0],
    )


def _measured_with(result: Result) -> MeasuredWith:
    facts = result.provenance
    git = facts.get("git", {})
    return MeasuredWith(
        digest=result.recipe_digest,
        commit=git.get("commit"),
        dirty=git.get("dirty"),
        python=facts.get("python"),
        cpu=facts.get("cpu"),
        packages=facts.get("packages", {}),
    )
