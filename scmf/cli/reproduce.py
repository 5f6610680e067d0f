"""The verb ``reproduce``: one recipe reproduced, or every recipe held against the committed results.

Lives here: parsing and printing. Lives elsewhere: what it does (scmf.experiments.reproduce, regression), where it
writes (scmf.experiments.folders).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from scmf.cli.options import Json, LowCoverage, Quiet, Seeds, Set, Variant, seeds_of, sets_of
from scmf.cli.output import print_json, print_outcome, print_parity, print_table, print_verdict

log = logging.getLogger(__name__)

EVERY = "all"
"""Word for every shipped recipe."""

RUNS, RESULTS, REPORTS = (f"runs/reproduce/RECIPE/{name}" for name in ("runs", "results", "reports"))


def reproduce(
    recipe: Annotated[
        str, typer.Argument(help="Recipe by name or path; or perturbation-metrics: our metrics against the packages'.")
    ],
    tier: Annotated[
        list[str] | None, typer.Option("--tier", help="parity or mini; both if not given. May be repeated.")
    ] = None,
    variant: Variant = None,
    seeds: Seeds = "0",
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="For maintainers: write the results as expected values and the parity table into the recipe's folder; "
            "results and pages of a shipped recipe go to leaderboard/results and reports.",
        ),
    ] = False,
    overrides: Set = None,
    allow_low_coverage: LowCoverage = False,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder for checkpoints and logs.", show_default=RUNS)
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="Folder for result files.", show_default=RESULTS)
    ] = None,
    reports: Annotated[Path | None, typer.Option("--reports", help="Folder for pages.", show_default=REPORTS)] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare with the committed results and change none of them; `all` takes every recipe."
        ),
    ] = False,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="With --check: judge this folder of results, run nothing."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce a recipe: parity with the official code, then a small variant from scratch, judged.

    Everything is written below runs/reproduce/RECIPE; committed files change with --record only. Exit code 0 when every
    verdict is match, close or not applicable, else 1.
    """
    from scmf.experiments.metric_parity.walk import METRIC_SETS

    if recipe in METRIC_SETS:
        more = any((check, measured, variant, overrides, record, seeds != "0", runs, results, reports))
        _metrics(recipe, tiers=tier, alone=more, json_=json_)
        return
    if check or measured is not None or recipe == EVERY:
        others = any((variant, overrides, allow_low_coverage, record, seeds != "0", runs, results, reports))
        _check_recipes(recipe, check=check, measured=measured, tiers=tier, alone=others, json_=json_, quiet=quiet)
        return
    from scmf.core import registry
    from scmf.core.errors import ConfigError
    from scmf.experiments.reproduce import TIERS
    from scmf.experiments.reproduce import reproduce as run_reproduction

    for name in tier or ():
        if name not in TIERS:
            hint = registry.did_you_mean(name, list(TIERS))
            raise ConfigError(f"tier {name!r}", wanted=f"one of {', '.join(TIERS)}", where="--tier", fix=hint)
    outcome = run_reproduction(
        recipe,
        tiers=tuple(tier or TIERS),
        variant=variant,
        overrides=sets_of(overrides, allow_low_coverage=allow_low_coverage),
        seeds=seeds_of(seeds),
        record=record,
        runs=runs,
        results_dir=results,
        reports=reports,
        on_case=lambda case: log.info(f"{'ok  ' if case.passed else 'FAIL'} {case.name}: {case.compared}"),
    )
    if json_:
        print_json(outcome.to_json())
    else:
        print_outcome(outcome)
    raise typer.Exit(0 if outcome.ok else 1)


def _metrics(name: str, *, tiers: list[str] | None, alone: bool, json_: bool) -> None:
    """A set of metrics against the packages that define them."""
    from scmf.core.errors import ConfigError
    from scmf.experiments.metric_parity.walk import reproduce_metrics

    if alone or set(tiers or ("parity",)) != {"parity"}:
        raise ConfigError(
            f"{name} with other options or tiers", wanted=f"`scmf reproduce {name} --tier parity`, also --json",
            where="scmf reproduce", fix="metrics are compared with the official packages, nothing is trained",
        )  # fmt: skip
    outcome = reproduce_metrics(
        name, on_case=lambda case: log.info(f"{'ok  ' if case.passed else 'FAIL'} {case.name}: {case.compared}")
    )
    if json_:
        print_json(outcome.to_json())
    else:
        print_parity(outcome.parity)
        print_verdict(outcome.ok)
        for case, values in outcome.not_offered.items():
            print(f"not offered here, {case}: {', '.join(values)}")
    raise typer.Exit(0 if outcome.ok else 1)


def _check_recipes(
    recipe: str, *, check: bool, measured: Path | None, tiers: list[str] | None, alone: bool, json_: bool, quiet: bool
) -> None:
    """The regression check of one recipe or of all."""
    from scmf.core.errors import ConfigError
    from scmf.experiments.regression import check_all
    from scmf.experiments.reproduce import TIERS

    if not check or alone:
        raise ConfigError(
            f"{recipe} with --check {check}, or together with --variant, --set, --seeds, --record, folders or others",
            wanted="`scmf reproduce all --check`, alone or with --tier and --measured",
            where="scmf reproduce",
            fix="name one recipe, or leave the other options out",
        )
    found = check_all(None if recipe == EVERY else [recipe], tiers=tuple(tiers or TIERS), measured=measured)
    if json_:
        print_json(found.to_json())
    else:
        from scmf.results.pages.regression import COLUMNS

        print_table(("recipe", "ok", "verdicts"), found.summary())
        print_table(tuple(COLUMNS), found.table(everything=False))
        print("every number lies in its band" if found.ok else "NOT as committed: see the first rows")
    raise typer.Exit(0 if found.ok else 1)
