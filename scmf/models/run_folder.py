"""What lies in the folder of a run, and where: written by training, read by evaluation, publishing and reports.

    run.json                    which recipe, variant, seed and configuration (without secrets), and what they ran on
    pretraining/log.jsonl       losses and scores, a line a step that was logged; those of fine-tuning, too
    pretraining/checkpoints/    resumable checkpoints
    model/                      weights, configuration and tokenizer, as ``from_pretrained`` reads them
    adapter/                    of a run fine-tuned with peft: the adapter, which ``model/`` has merged into its weights
    cells.h5ad                  of a run fine-tuned on an AnnData in memory: its cells
    split.tsv                   of a run fine-tuned with --split-key: which cell trained
    finetuning/<method>/        a head that `scmf evaluate` fine-tuned
    results/                    results of `scmf evaluate`

Lives elsewhere: weights in and out (checkpoint), where weights come from (origin), results (results.result).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import Recipe
from scmf.core.config.run import RunConfig, apply_overrides, validate
from scmf.core.errors import ConfigError, TrainingError
from scmf.core.files import peek_object, sha256_file, sha256_json, write_json
from scmf.core.owned import refuse_foreign
from scmf.core.redact import OPTIONS, hide, left_out

log = logging.getLogger(__name__)

NOTE = "run.json"
"""Name of the file that makes a folder the folder of a run."""

_IDENTITY = ("recipe", "variant", "seed", "recipe_digest")
"""What the weights of a run carry along."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run; it need not exist yet.

    Parameters
    ----------
    path
        The ``--out`` of `scmf train`.
    """

    path: Path

    @classmethod
    def find(cls, folder: Path | str) -> RunFolder | None:
        """The run that ``folder`` is, or whose ``model/`` it is; None for a checkpoint of another origin."""
        folder = Path(folder)
        if (folder / NOTE).is_file():
            return cls(folder)
        whole = folder.resolve()
        inside = whole.name == "model" and (whole.parent / NOTE).is_file()
        return cls(folder.parent if folder.name == "model" else whole.parent) if inside else None

    @classmethod
    def at(cls, folder: Path | str) -> RunFolder:
        """As `find`.

        Raises
        ------
        ConfigError
            There is no run.
        """
        found = cls.find(folder)
        if found is None:
            raise ConfigError(
                f"no {NOTE}", wanted="the folder of a run, or --config", where=folder, fix="name a recipe with --config"
            )
        return found

    @staticmethod
    def weights_in(folder: Path | str) -> Path:
        """``model/`` where ``folder`` is a run whose weights lie there, else ``folder`` itself."""
        folder = Path(folder)
        inner = folder / "model"
        return inner if not (folder / "config.json").is_file() and (inner / "config.json").is_file() else folder

    # --- where things lie --------------------------------------------------------------------------

    @property
    def note(self) -> Path:
        """The file with the facts."""
        return self.path / NOTE

    @property
    def pretraining(self) -> Path:
        """Folder of the training loop: its log and its resumable checkpoints."""
        return self.path / "pretraining"

    @property
    def log(self) -> Path:
        """Losses and scores, JSON lines."""
        return self.pretraining / "log.jsonl"

    @property
    def model(self) -> Path:
        """Weights, configuration and tokenizer."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """The adapter of a run that was fine-tuned with peft."""
        return self.path / "adapter"

    @property
    def cells(self) -> Path:
        """The cells that a run was fine-tuned on where no file held them."""
        return self.path / "cells.h5ad"

    @property
    def split(self) -> Path:
        """The split that `scmf finetune` made."""
        return self.path / "split.tsv"

    def finetuning(self, method: str) -> Path:
        """Folder of a fine-tuned head."""
        return self.path / "finetuning" / method

    @property
    def results(self) -> Path:
        """Folder of results."""
        return self.path / "results"

    # --- the facts ---------------------------------------------------------------------------------

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``: ``recipe, variant, seed, recipe_digest, digest, config, parameters, provenance``.

        Without secrets: ``left_out`` names the keys of the configuration that had some.
        """
        lacking = left_out(facts.get("config") or {})
        note = {**hide(dict(facts)), **({"left_out": lacking} if lacking else {})}
        note["made_in"] = os.path.relpath(Path.cwd(), self.path)  # without the names of the folders above
        write_json(self.note, {**note, "sha256": sha256_json(note)})

    def claim(self, facts: Mapping[str, Any]) -> None:
        """Refuse a folder in which this run would touch what is not its own; nothing is written.

        Parameters
        ----------
        facts
            As `write` takes them, as far as they are known: ``recipe_digest``, ``seed``, ``digest``.

        Raises
        ------
        ConfigError
            Somebody else's files lie where a run writes.
        TrainingError
            Another run is there: of another seed, configuration or cells.
        """
        refuse_foreign(
            self.path,
            (NOTE, "pretraining", "model", "adapter", "split.tsv", "split.yaml", "config.json"),
            is_ours=lambda _: self._is_run(),
        )
        if not self.note.is_file() or not (self.model.is_dir() or self._has_checkpoints):
            return
        try:
            held = self.facts
        except ConfigError as error:
            if not self._has_checkpoints:
                raise
            log.warning(f"damaged {self.note} ({error.found}): it is written anew if the checkpoints are of this run")
            return
        wrong = [key for key in facts if key in held and held[key] != facts[key]]
        if wrong:
            raise TrainingError(
                f"another run, of {', '.join(f'{key} {_short(held[key])}' for key in wrong)}",
                wanted=f"{', '.join(f'{key} {_short(facts[key])}' for key in wrong)}: the same cells, tokens, model "
                "and training settings, to resume it",
                where=self.path,
                fix="choose another --out, or restore the settings",
            )

    @property
    def _has_checkpoints(self) -> bool:
        """Whether resumable checkpoints lie here; they say themselves which run they are of."""
        return any(self.pretraining.glob("checkpoints/step-*/progress.json"))

    def _is_run(self) -> bool:
        """Whether a run wrote this folder: by the keys of its note, or by its checkpoints where that is lost."""
        found = peek_object(self.note)
        return self._has_checkpoints if found is None else {"recipe_digest", "config"} <= found.keys()

    @property
    def identity(self) -> dict[str, Any]:
        """Recipe, variant, seed and digest of ``run.json``: what saved weights say they belong to."""
        facts = self.facts
        return {key: facts.get(key) for key in _IDENTITY}

    @property
    def facts(self) -> dict[str, Any]:
        """Content of ``run.json``.

        Raises
        ------
        ConfigError
            It is not a JSON object, or was changed after it was written.
        """
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._broken(f"not JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._broken(f"a {type(found).__name__}")
        for key, kind in (("recipe", str), ("variant", str), ("config", dict)):
            if key in found and not isinstance(found[key], kind):
                raise self._broken(f"{key} is a {type(found[key]).__name__}")
        if "sha256" in found and found["sha256"] != sha256_json({k: v for k, v in found.items() if k != "sha256"}):
            raise self._broken("facts or configuration that were changed after the run was made")
        return found

    def fact(self, key: str) -> Any:
        """One value of ``run.json``; `ConfigError` where it has none."""
        facts = self.facts
        if key not in facts:
            raise self._broken(f"no {key!r}")
        return facts[key]

    @property
    def config(self) -> RunConfig:
        """The configuration the run was made with, also one with the key names of before."""
        config: RunConfig = validate(RunConfig, self.fact("config"), where=str(self.note))
        return config

    def recipe(self, overrides: tuple[str, ...] = ()) -> Recipe:
        """The recipe the run was made with, without its identity and its other variants."""
        config = self.fact("config") if not overrides else apply_overrides(self.fact("config"), overrides)
        self._say_what_is_left_out(config)
        config = self._found_from_here(config)
        return Recipe(
            name=self.fact("recipe"),
            variant=self.fact("variant"),
            config=validate(RunConfig, config, where=str(self.note)),
            identity=None,
            variants={},
            folder=self.path,
            overrides=overrides,
        )

    def _found_from_here(self, config: Any) -> Any:
        """The configuration with own files named as this folder finds them, where the run was made in another one."""
        data, made_in = config.get("data") if isinstance(config, dict) else None, self.facts.get("made_in")
        if not isinstance(data, dict) or not isinstance(made_in, str):
            return config

        def here(name: Any) -> Any:
            if not isinstance(name, str) or Path(name).exists():
                return name
            there = self.path / made_in / name
            return os.path.normpath(there) if there.exists() else name

        def kept(name: Any) -> Any:
            if isinstance(name, str) and Path(name).name == self.cells.name and self._keeps_cells(name):
                return str(self.cells)
            return here(name)

        files = data.get("files")
        found = {key: here(data[key]) for key in ("dataset", "split") if key in data}
        found |= {"files": [kept(name) for name in files]} if isinstance(files, list) else {}
        if self._keeps_split(data.get("split")):
            found["split"] = str(self.split)
        return {**config, "data": {**data, **found}}

    def _keeps_cells(self, name: str) -> bool:
        """Whether cells of ``data.files`` are those that this run keeps, and its folder lies elsewhere now."""
        if not self.cells.is_file() or (Path(name).is_file() and Path(name).samefile(self.cells)):
            return False
        kept = ((self.facts.get("provenance") or {}).get("data") or {}).get("sha256")
        return bool(kept == sha256_file(self.cells))

    def _keeps_split(self, name: Any) -> bool:
        """Whether ``data.split`` is the split that this run made and keeps, and its folder lies elsewhere now."""
        if not isinstance(name, str) or Path(name).name != self.split.name or not self.split.is_file():
            return False
        kept = ((self.facts.get("provenance") or {}).get("data") or {}).get("split_sha256")
        moved = not Path(name).is_file() or not Path(name).samefile(self.split)
        return moved and kept == sha256_file(self.split)

    def _say_what_is_left_out(self, config: Any) -> None:
        """Warn of storage options that the run had, which neither its record nor an override brings."""
        known = (config.get("data") or {}).get(OPTIONS) or {} if isinstance(config, dict) else {}
        lacking = [key for key in self.facts.get("left_out") or () if f".{OPTIONS}." in key]
        lacking = [key for key in lacking if key.rpartition(".")[2] not in known]
        if lacking:
            log.warning(
                f"{self.note} holds no secrets: {', '.join(lacking)} come from the environment, or from --set KEY=VALUE"
            )

    def _broken(self, found: str) -> ConfigError:
        return ConfigError(
            found,
            wanted=f"the {NOTE} that `scmf train` writes",
            where=self.note,
            fix="restore the file, or give another folder",
        )


def _short(value: Any) -> str:
    return str(value)[:12]
