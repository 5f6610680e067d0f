"""Keys of files that have another name today: the one table, reading the old names, and the names that digests hash.

A YAML file, a ``--set``, a saved ``run.json``, a saved tokenizer or network and a dataset card that were written before
are read for one release, with one warning a key. A digest is computed with the first name of a key, for good, so that
digests recorded before a key was renamed stay true. Lives elsewhere: what a key means (the section that has it).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scmf.core.config.spellings import MOVED, schema_spelling
from scmf.core.errors import ConfigError, reading

log = logging.getLogger(__name__)

RENAMED: dict[str, dict[str, str]] = {
    "data": {"gene_vocab": "gene_set"},
    "tokenizer": {"max_genes": "max_length", "faithful": "match_official"},
    "model.options": {"faithful": "match_official"},
    "task": {"gene_vocab": "gene_set"},
    "identity": {"licence": "license"},
    "card": {"licence": "license"},
    "provenance.json": {"weights_licence": "weights_license", "source_licence": "source_license"},
    "config.json": {"faithful": "match_official", "source_licence": "source_license"},
    "environment": {"SCMF_ORACLE_DIR": "SCMF_REFERENCE_DIR"},
}
"""Where a key stands -> its name before -> its name today."""

_TIERS = {"embedded": "mini"}
"""Values of a variant's ``tier`` -> their name today."""

_warned: set[tuple[str, str]] = set()


def warn_renamed(place: str, old: str, new: str) -> None:
    """Warn once in a process that ``old`` is called ``new`` today."""
    if (place, old) not in _warned:
        _warned.add((place, old))
        log.warning("%s: %s is called %s now; the old name is read until the next release", place, old, new)


def current_names(place: str, values: Any) -> Any:
    """A copy of a mapping with the names of today; anything else as it is.

    Parameters
    ----------
    place
        A key of `RENAMED`.
    values
        Keys and values as a file has them.

    Raises
    ------
    ConfigError
        The old and the new name of a key are both given.
    """
    if not isinstance(values, Mapping):
        return values
    names = RENAMED[place]
    found = {}
    for key, value in values.items():
        new = names.get(str(key), str(key))
        if new != key:
            if new in values:
                raise ConfigError(
                    f"{key} and {new}", wanted=f"{new} alone", where=place, fix=f"remove {key}, its name of before"
                )
            if (place, str(key)) not in MOVED:  # another spelling, which stands for good
                warn_renamed(place, str(key), str(new))
        found[new] = value
    return found


def renamed_in(place: str, path: Path) -> dict[str, Any]:
    """The keys of a saved JSON file that have another name today, under that name; none when there is no such file."""
    if not path.is_file():
        return {}
    with reading(ConfigError, what=f"the {path.name}", where=path):
        saved = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(saved, dict):
        raise ConfigError(f"a {type(saved).__name__}", wanted="one JSON object", where=path, fix="restore the file")
    found = current_names(place, saved)
    return {key: value for key, value in found.items() if key not in saved}


def load_tokenizer(strategy: Any, folder: Path | str) -> Any:
    """``strategy.from_pretrained`` of a folder on this machine, also one that was saved with the names of before."""
    renamed = renamed_in("tokenizer", Path(folder) / "tokenizer_config.json")
    tokenizer = strategy.from_pretrained(folder, local_files_only=True, **renamed)
    for old in RENAMED["tokenizer"]:
        tokenizer.init_kwargs.pop(old, None)
    return tokenizer


def current_sections(raw: Any) -> Any:
    """The sections of a run's configuration as the schema spells them; what is not a mapping is left to the check."""
    if not isinstance(raw, Mapping):
        return raw
    found = dict(raw)
    for section in ("data", "tokenizer", "model"):
        if isinstance(found.get(section), Mapping):
            found[section] = current_names(section, found[section]) if section in RENAMED else dict(found[section])
    model = found.get("model")
    if isinstance(model, dict) and "options" in model:
        model["options"] = current_names("model.options", model["options"])
    return schema_spelling(found)


def current_file(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A whole YAML file with the names of today: identity, sections, and the overrides of each variant."""
    found: dict[str, Any] = current_sections(raw)
    if "identity" in found:
        found["identity"] = current_names("identity", found["identity"])
    if isinstance(found.get("variants"), Mapping):
        found["variants"] = {name: _variant(variant) for name, variant in found["variants"].items()}
    return found


def _variant(raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    found = dict(raw)
    if found.get("tier") in _TIERS:
        warn_renamed("tier", found["tier"], _TIERS[found["tier"]])
        found["tier"] = _TIERS[found["tier"]]
    if "overrides" in found:
        found["overrides"] = current_sections(found["overrides"])
    return found


def first_names(place: str, values: Any) -> Any:
    """A copy of a mapping with the first names of its keys, as digests hash them; anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    first = {new: old for old, new in RENAMED[place].items()}
    return {first.get(key, key): value for key, value in values.items()}
