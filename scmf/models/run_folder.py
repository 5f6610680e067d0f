"""What lies in the folder of a run, and where: written by training, read by evaluation, publishing and reports.

    run.json                    which recipe, variant, seed and configuration (without secrets), and what they ran on
    pretraining/log.jsonl       losses and scores, a line a step that was logged
    pretraining/checkpoints/    resumable checkpoints
    model/                      weights, configuration and tokenizer, as ``from_pretrained`` reads them
    finetuning/<method>/        a fine-tuned head
    results/                    results of `scmf evaluate`

Lives elsewhere: weights in and out (checkpoint), where weights come from (origin), results (results.result).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import Recipe
from scmf.core.config.run import RunConfig, apply_overrides, validate
from scmf.core.errors import ConfigError
from scmf.core.files import write_json
from scmf.core.redact import OPTIONS, hide, left_out

log = logging.getLogger(__name__)

NOTE = "run.json"
"""Name of the file that makes a folder the folder of a run."""


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

    def finetuning(self, method: str) -> Path:
        """Folder of a fine-tuned head."""
        return self.path / "finetuning" / method

    @property
    def results(self) -> Path:
        """Folder of results."""
        return self.path / "results"

    # --- the facts ---------------------------------------------------------------------------------

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``: ``recipe, variant, seed, recipe_digest, config, parameters, provenance``.

        Without secrets: ``left_out`` names the keys of the configuration that had some.
        """
        lacking = left_out(facts.get("config") or {})
        write_json(self.note, {**hide(dict(facts)), **({"left_out": lacking} if lacking else {})})

    @property
    def facts(self) -> dict[str, Any]:
        """Content of ``run.json``.

        Raises
        ------
        ConfigError
            It is not a JSON object.
        """
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._broken(f"not JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._broken(f"a {type(found).__name__}")
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
        return Recipe(
            name=self.fact("recipe"),
            variant=self.fact("variant"),
            config=validate(RunConfig, config, where=str(self.note)),
            identity=None,
            variants={},
            folder=self.path,
            overrides=overrides,
        )

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
