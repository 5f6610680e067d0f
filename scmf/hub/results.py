"""The scores of a model, gathered from files for its card.

Takes result files, folders of them, and what ``scmf evaluate --json`` printed. Lives here: reading, keeping
what belongs to this model. Lives elsewhere: what a result is (scmf.results.result), how it is shown (card).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import list_recipes, load_recipe
from scmf.core.errors import ConfigError
from scmf.core.files import sha256_file
from scmf.models.origin import Checkpoint
from scmf.models.run_folder import NOTE
from scmf.results.ledger import read_results
from scmf.results.pages.table import OURS
from scmf.results.result import Result

_SCORE = (
    "benchmark", "protocol", "method", "metrics", "definitions", "labels", "columns", "heads", "n_cells", "n_train",
    "seconds",
)  # fmt: skip
"""Keys of a score as ``scmf evaluate --json`` prints it."""


@dataclass(frozen=True)
class Model:
    """Which model results have to be about.

    Parameters
    ----------
    recipe, variant
        Names.
    digest, seed
        Of the run; None for weights that were not trained here.
    data
        What the run was trained on: dataset, split and their checksums.
    """

    recipe: str
    variant: str
    digest: str | None
    seed: int | None
    data: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Model:
        """The model of a run, or of converted weights that say which recipe and variant they are."""
        run, record, config = checkpoint.run, checkpoint.record, checkpoint.config
        return cls(
            recipe=str(run.get("recipe") or record.get("recipe") or _recipe_of(config) or "unknown"),
            variant=str(run.get("variant") or record.get("variant") or config.get("source_variant") or "unknown"),
            digest=run.get("recipe_digest"),
            seed=run.get("seed"),
            data=(run.get("provenance") or {}).get("data") or {},
        )

    def owns(self, result: Result) -> bool:
        """Whether a result was measured on this model, or on a baseline beside it."""
        if (result.recipe, result.variant) != (self.recipe, self.variant):
            return False
        if self.digest is None:
            return result.tier == "published"
        return result.recipe_digest == self.digest and result.seed in (None, self.seed)


def _recipe_of(config: dict[str, Any]) -> str | None:
    """The shipped recipe that converted the weights: by its name, or by the repository that it compares with."""
    name, repository = config.get("source_recipe"), config.get("source_repository")
    if name or not repository:
        return name
    for recipe in list_recipes():
        identity = load_recipe(recipe).identity
        if identity is not None and repository in identity.code:
            return recipe
    return None


def gather(paths: Sequence[Path], model: Model) -> list[Result]:
    """Results of ``model`` in ``paths``; of a folder those that are about it, of a file all.

    Raises
    ------
    ConfigError
        If a path holds nothing about this model, or what it holds cannot be read.
    """
    found = [result for path in paths for result in (_of_folder if path.is_dir() else _of_file)(path, model)]
    return list({result.path: result for result in found}.values())


def _of_folder(path: Path, model: Model) -> list[Result]:
    every = read_results(path)
    mine = [result for result in every if model.owns(result)]
    if not any(result.method in OURS for result in mine):  # baselines alone belong to no model
        raise ConfigError(
            f"{len(every)} results, none of {_name(model)}",
            wanted="results of the model that is published",
            where=path,
            fix="give what `scmf evaluate FOLDER --json` printed, as a file",
        )
    return mine


def _of_file(path: Path, model: Model) -> list[Result]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("no such file", wanted="results as JSON", where=path, fix="check the path") from error
    except ValueError as error:
        raise ConfigError(
            f"not JSON: {error}", wanted="what `scmf evaluate --json` prints", where=path, fix="write it again"
        ) from error
    found = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or not entry:
            raise ConfigError(
                f"{json.dumps(entry)[:60]}", wanted="results or scores", where=path, fix="write the file again"
            )
        if "schema_version" in entry:
            result = Result.from_json(entry, where=str(path))
            if not model.owns(result):
                raise ConfigError(
                    f"a result of {result.recipe} {result.variant}, seed {result.seed}, {result.recipe_digest[:8]}",
                    wanted=f"results of {_name(model)}",
                    where=path,
                    fix="give the results of this run",
                )
        else:
            result = _of_score(entry, model, where=path)
        found.append(result)
    return found


def _of_score(score: dict[str, Any], model: Model, *, where: Path) -> Result:
    """A score of ``scmf evaluate`` as a result: cells and split are those of the run unless the score names others."""
    place = {key: score.get(key) or model.data.get(key) for key in ("dataset", "split")}
    if not place["dataset"]:
        raise ConfigError(
            "scores that do not say on which cells",
            wanted=f'keys "dataset" and "split" in every score, as the weights have no {NOTE}',
            where=where,
            fix="add them to the file",
        )
    value = {
        **{key: score[key] for key in _SCORE if key in score},
        **{key: _as_name(text) for key, text in place.items()},
        "recipe": _as_name(model.recipe),
        "variant": _as_name(model.variant),
        "tier": "mini" if model.digest else "published",
        "seed": score.get("seed", model.seed),
        "higher_is_better": {name: not name.endswith("loss") for name in score.get("metrics") or {}}
        | (score.get("higher_is_better") or {}),
        "recipe_digest": model.digest or "none",
        # where and by which versions it was measured stands in the definitions alone
        "provenance": {"data": place, "scores": {"file": where.name, "sha256": sha256_file(where)}},
        "command": "scmf evaluate",
    }
    return Result.from_json(value, where=str(where))


def _as_name(text: Any) -> str:
    """A dataset or split as a result names it: own files become the stem of the file."""
    stem = re.sub(r"(\.(tsv|csv|h5ad|zarr|yaml|gz))+$", "", Path(str(text or "none")).name)
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).lstrip("_-") or "cells"


def _name(model: Model) -> str:
    if model.digest is None:
        return f"the published weights {model.recipe} {model.variant}"
    return f"{model.recipe} {model.variant}, seed {model.seed}, digest {model.digest[:8]}"
