"""The verb ``sweep``: one architecture trained under several tokenizers, with the same cells, budget and seeds.

Lives here: the runs, what is held equal, which differences exceed the spread of the seeds. Lives elsewhere: one run
(seeds), the metrics (scmf.evaluation), printing (scmf.cli).
"""

from __future__ import annotations

import json
import logging
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scmf.core import registry
from scmf.core.config.recipe import Recipe, load_recipe
from scmf.core.config.run import RunConfig, deep_merge
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, ModelError
from scmf.core.files import peek_object, write_json, write_text
from scmf.core.owned import refuse_foreign
from scmf.experiments.seeds import SharedInputs, run_seed
from scmf.models.run_folder import RunFolder
from scmf.results.ledger import write_result
from scmf.results.pages.escape import code, markdown
from scmf.results.result import Result
from scmf.results.significance import BEST, EQUAL, WORSE, Estimate, differ
from scmf.training.processes import refuse_several

log = logging.getLogger(__name__)

PRESETS: dict[str, dict[str, Any]] = {
    "rank_value": {"encoder": {"value_encoding": "none", "positions": True}, "tokenizer": {}},
    "binned": {"encoder": {"value_encoding": "category", "positions": False}, "tokenizer": {}},
    "continuous": {"encoder": {"value_encoding": "continuous", "positions": False}, "tokenizer": {"order": "random"}},
    "gene_embedding": {
        "encoder": {"value_encoding": "continuous", "positions": False},
        "tokenizer": {"order": "random", "vectors": "fit"},
    },
}
"""How ``transformer_encoder`` reads a strategy: expression as rank, bin or number; which genes of a long cell stay."""

OWN = "own"
"""Objective that leaves each strategy the one it was published with."""

OWN_OBJECTIVE = {"rank_value": "masked_gene_prediction"}

SHOWN = (
    ("annotation", "linear_probe", "accuracy"),
    ("annotation", "linear_probe", "macro_f1"),
    ("annotation", "knn_probe", "accuracy"),
    ("annotation", "finetuned_head", "accuracy"),
    ("integration", "scib", "bio_conservation"),
    ("integration", "scib", "batch_correction"),
    ("integration", "scib", "overall"),
)
"""Numbers of the printed table; the JSON holds all."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Row:
    """One line of the table: a strategy or a baseline.

    Parameters
    ----------
    strategy
        Tokenizer; None for a method without one.
    method
        ``pretrained``, ``untrained``, ``hvg``, ``pca``, ``majority``.
    samples
        (benchmark, protocol, metric) -> one number a seed.
    facts
        Of a pretrained row: objective, parameters, steps, seconds of training, mean tokens a cell.
    """

    strategy: str | None
    method: str
    samples: dict[Key, list[float]]
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.method if self.strategy is None else f"{self.strategy}, {self.method}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Parameters
    ----------
    architecture, recipe, seeds
        What was trained, on whose cells and budget, how often.
    rows
        Strategies, each pretrained and untrained, then the baselines.
    absent
        Strategy -> why it could not run.
    """

    architecture: str
    recipe: str
    seeds: tuple[int, ...]
    rows: list[Row]
    absent: dict[str, str]

    def verdicts(self, key: Key) -> dict[str, str]:
        """For each pretrained strategy: ``best``, ``worse`` or ``not distinguishable`` from the best; "" for one seed.

        Told apart by `scmf.results.significance.differ`: Welch's t-test between the seeds, two-sided, at .05.
        """
        rows = [row for row in self.rows if row.method == "pretrained" and len(row.samples.get(key, [])) > 1]
        if len(rows) < 2:
            return {}
        best = max(rows, key=lambda row: statistics.mean(row.samples[key]))
        found = {best.name: BEST}
        for row in rows:
            if row is not best:
                apart = differ(Estimate(tuple(row.samples[key])), Estimate(tuple(best.samples[key])))
                found[row.name] = WORSE if apart else EQUAL
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        rows = [
            {
                "strategy": row.strategy,
                "method": row.method,
                **row.facts,
                "metrics": [
                    {
                        "benchmark": key[0],
                        "protocol": key[1],
                        "metric": key[2],
                        "samples": samples,
                        "mean": statistics.mean(samples),
                        "sd": statistics.stdev(samples) if len(samples) > 1 else None,
                        "against_best": self.verdicts(key).get(row.name),
                    }
                    for key, samples in sorted(row.samples.items())
                ],
            }
            for row in self.rows
        ]
        return {
            "architecture": self.architecture,
            "recipe": self.recipe,
            "seeds": list(self.seeds),
            "rows": rows,
            "absent": self.absent,
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and lines of the printed table; ``=`` marks what is not distinguishable from the best (``*``)."""
        keys = [key for key in SHOWN if any(key in row.samples for row in self.rows)]
        heads = ["tokenizer, method", *(f"{key[1].replace('_', ' ')}, {key[2]}" for key in keys)]
        heads += ["parameters", "seconds"]
        marks = {key: self.verdicts(key) for key in keys}
        sign = {BEST: " *", EQUAL: " =", WORSE: ""}
        lines = []
        for row in self.rows:
            cells = [_written(row.samples.get(key, [])) + sign.get(marks[key].get(row.name, ""), "") for key in keys]
            parameters, seconds = row.facts.get("parameters"), row.facts.get("seconds")
            cells += ["" if parameters is None else f"{parameters:,}", "" if seconds is None else f"{seconds:.0f}"]
            lines.append([row.name, *cells])
        return heads, lines

    def markdown(self) -> str:
        """The table as Markdown, with what was held equal."""
        heads, lines = self.table()
        said = [f"# {markdown(self.architecture)} under {len(self.rows)} methods", ""]
        said += [f"Cells, split, budget: recipe {code(self.recipe)}; seeds {', '.join(map(str, self.seeds))}.", ""]
        said += ["| " + " | ".join(map(markdown, heads)) + " |", "|" + "---|" * len(heads)]
        said += ["| " + " | ".join(map(markdown, line)) + " |" for line in lines]
        said += ["", "`*` best mean of the pretrained strategies, `=` not distinguishable from it (Welch, .05)."]
        said += [f"{code(strategy)} did not run: {markdown(reason)}" for strategy, reason in self.absent.items()]
        return "\n".join(said) + "\n"


def sweep_tokenizers(
    base: str,
    strategies: Sequence[str],
    *,
    architecture: str,
    objective: str = "masked_gene_prediction",
    variant: str | None = None,
    overrides: tuple[str, ...] = (),
    seeds: Sequence[int] = (0,),
    out: Path,
) -> Sweep:
    """Train one architecture under each tokenizer, on the same cells with the same budget, and score all of them.

    Parameters
    ----------
    base
        Recipe that gives cells, split, sizes, budget and benchmarks.
    strategies
        Names of tokenizers; each with `PRESETS` for what only it knows.
    architecture
        Name of the model.
    objective
        Name of an objective for all; ``own`` leaves each strategy the one it was published with.
    variant, overrides
        As in `scmf.core.config.recipe.load_recipe`.
    seeds
        Seeds; differences are told apart from two on.
    out
        Folder for runs, ``results/``, ``sweep.json`` and ``sweep.md``. Finished runs in it are not trained again.

    Raises
    ------
    ConfigError
        Unknown names, no strategy, or none that runs.
    """
    refuse_foreign(out, ("sweep.json", "sweep.md"), is_ours=_is_sweep)
    recipe = load_recipe(base, variant=variant, overrides=overrides)
    refuse_several(recipe.config.training, "sweep")
    for strategy in strategies:
        registry.check("tokenizers", strategy)
    registry.check("models", architecture)
    if not strategies or not seeds:
        raise ConfigError("no tokenizer or no seed", wanted="at least one of each", where="sweep", fix="name them")
    words = ["scmf", "sweep", "--config", base, "--model", architecture, "--objective", objective]
    words += [*(("--variant", variant) if variant else ()), *(word for text in overrides for word in ("--set", text))]
    rows: list[Row] = []
    others: list[Row] = []
    absent: dict[str, str] = {}
    for strategy in dict.fromkeys(strategies):
        task = OWN_OBJECTIVE.get(strategy, "masked_value_prediction") if objective == OWN else objective
        try:
            one = under(recipe, strategy, architecture=architecture, objective=task)
            found = _strategy_rows(one, strategy, seeds, words=words, out=out, first=not others)
        except (ConfigError, ModelError) as error:
            absent[strategy] = str(error.found)
            log.info(f"{strategy} does not run with {architecture}: {error.found}")
            continue
        rows += found[:2]
        others = others or found[2:]
    if not rows:
        raise ConfigError(
            f"no tokenizer ran: {'; '.join(f'{name}: {why}' for name, why in absent.items())}",
            wanted=f"at least one that {architecture} takes",
            where="--tokenizers, --model, --objective",
            fix="choose another pair",
        )
    sweep = Sweep(architecture, f"{recipe.name}, {recipe.variant}", tuple(seeds), rows + others, absent)
    write_json(out / "sweep.json", sweep.to_json())
    write_text(out / "sweep.md", sweep.markdown())
    return sweep


def _is_sweep(folder: Path) -> bool:
    """Whether a sweep was written into a folder before."""
    return {"architecture", "rows", "absent"} <= set(peek_object(folder / "sweep.json") or ())


def under(recipe: Recipe, strategy: str, *, architecture: str, objective: str) -> Recipe:
    """``recipe`` with another tokenizer, model and objective; cells, sizes, budget and benchmarks stay."""
    raw = recipe.config.model_dump(mode="json")
    preset = PRESETS.get(strategy, {"encoder": {}, "tokenizer": {}})
    same_model = recipe.config.model.architecture == architecture
    options = raw["model"]["options"] if same_model else {}
    if architecture == "transformer_encoder":
        options = {**options, **preset["encoder"]}
    same_strategy = recipe.config.tokenizer.strategy == strategy
    raw["tokenizer"]["options"] = raw["tokenizer"]["options"] if same_strategy else preset["tokenizer"]
    raw["model"]["options"] = options
    if recipe.config.training.pretraining_task != objective:
        raw["training"]["options"] = {}
    chosen = {"tokenizer": {"strategy": strategy}, "model": {"architecture": architecture}}
    raw = deep_merge(raw, {**chosen, "training": {"pretraining_task": objective}})
    config = validate(RunConfig, raw, where=f"{recipe.name} with tokenizer {strategy}")
    return replace(recipe, name=f"sweep-{recipe.name}-{architecture}", variant=strategy, config=config)


def _strategy_rows(
    recipe: Recipe, strategy: str, seeds: Sequence[int], *, words: list[str], out: Path, first: bool
) -> list[Row]:
    """Rows of a strategy (pretrained, untrained), and of the baselines when it is the first one."""
    shared = SharedInputs.of(recipe)
    samples: dict[str, dict[Key, list[float]]] = {}
    facts: dict[str, Any] = {"objective": recipe.config.training.pretraining_task}
    for number, seed in enumerate(seeds):
        log.info(f"{strategy}, seed {seed}")
        done = run_seed(recipe, seed, shared, runs=out / "runs", first=first and not number)
        command = shlex.join([*words, "--tokenizers", strategy, "--seeds", str(seed)])
        for result in done.results:
            write_result(out / "results", Result.from_json({**result.to_json(), "command": command}))
            _add(samples.setdefault(result.method, {}), result)
        facts |= _facts(done.folder, done.results)
    facts["tokens_per_cell"] = round(float(shared.prepared.tokens.lengths.mean()), 1)
    ours = ("pretrained", "untrained")
    rows = [Row(strategy, method, samples.get(method, {}), facts if method == ours[0] else {}) for method in ours]
    return rows + [Row(None, method, found, {}) for method, found in samples.items() if method not in ours]


def _add(samples: dict[Key, list[float]], result: Result) -> None:
    for metric, value in result.metrics.items():
        samples.setdefault((result.benchmark, result.protocol, metric), []).append(value)


def _facts(folder: Path, results: Sequence[Result]) -> dict[str, Any]:
    """Parameters, steps and seconds of a run, from its files."""
    log = RunFolder(folder).log.read_text(encoding="utf-8").splitlines()
    seconds = [result.seconds for result in results if result.benchmark == "pretraining"]
    return {
        "parameters": RunFolder(folder).fact("parameters"),
        "steps": json.loads(log[-1])["step"],
        "seconds": seconds[0] if seconds else None,
    }


def _written(samples: Sequence[float]) -> str:
    if not samples:
        return ""
    mean = f"{statistics.mean(samples):.3f}"
    return mean if len(samples) < 2 else f"{mean} ± {statistics.stdev(samples):.3f}"
