"""Where the weights of a checkpoint come from, and whether they may be passed on.

What is known of a folder stands in three places, and the strictest of them counts:

* ``provenance.json`` beside the weights, written by `scmf models pull`, by training and by `scmf publish`:
  ``weights_license`` (text) and ``may_publish`` (bool), or ``trained_from: random weights``. ``allowed`` says what a
  license allows instead; ``weights_sha256`` (file -> sum) binds the record to its weights; ``checked`` (a sentence) is
  the word of a person where nothing else is known, and never lifts a no.
* ``source_license`` and ``source_may_publish`` in ``config.json``, which converted weights carry through fine-tuning.
* ``run.json``: the run started from the folder ``model.checkpoint``, whose origin is followed; or from random weights.

Weights whose origin cannot be read are not published. Lives elsewhere: which license the publisher's own weights get
and what is written about it (publish, card).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scmf.core.config.renamed import current_names
from scmf.core.errors import ModelError, ScmfError
from scmf.core.files import read_object, sha256_file
from scmf.data.cards.card import load_card
from scmf.models.published.names import find_here
from scmf.models.run_folder import NOTE, RunFolder

RECORD = "provenance.json"
SCRATCH = "random weights"

PERMISSIVE = {
    name.lower(): name
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "ISC", "Unlicense",
    )
}  # fmt: skip
"""Licenses that let everybody pass a work on, by their SPDX identifier."""

_NO = "keep these weights to yourself; publish your YAML file, by which others train from a copy of their own"
_STATE = (
    f'if you know that they may be published, write {RECORD} beside the weights with "weights_license": "<license>", '
    '"may_publish": true and "checked": "<who checked it, and how>"'
)


@dataclass(frozen=True)
class Link:
    """One thing known about the origin of weights.

    Parameters
    ----------
    folder
        The folder it is known of.
    how
        What happened there, or which part this is about.
    license
        License, as text; None for weights that were trained from random ones.
    may_publish
        Whether it allows publishing; None when that cannot be told.
    reason
        Why it cannot be told.
    allowed
        What is allowed instead, where the record says so.
    facts
        Repository, revision, file and checksum of published weights, by their names in the record.
    """

    folder: Path
    how: str
    license: str | None = None
    may_publish: bool | None = True
    reason: str = ""
    allowed: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with weights and what lies beside them.

    Parameters
    ----------
    model
        The folder with ``config.json``.
    config, record, run
        Contents of ``config.json``, ``provenance.json`` and ``run.json``; empty where there is no such file.
    folder
        The folder of the run, or that of the weights where there is no run.
    """

    model: Path
    config: dict[str, Any]
    record: dict[str, Any]
    run: dict[str, Any]
    folder: Path

    @classmethod
    def at(cls, folder: Path | str) -> Checkpoint:
        """The checkpoint in ``folder``, or in ``model/`` of the folder of a run.

        Raises
        ------
        ModelError
            If there is none, or a file beside it is not JSON.
        """
        folder = Path(folder)
        model = RunFolder.weights_in(folder)
        if not (model / "config.json").is_file():
            raise ModelError(
                "no config.json" if folder.is_dir() else "no such folder",
                wanted="the folder of a run, or of a checkpoint",
                where=folder,
                fix="give the --out of `scmf train`, or a name that `scmf models ls` lists",
            )
        model = model.resolve()
        run = RunFolder.find(model)
        return cls(
            model=model,
            config=current_names("config.json", _json(model / "config.json")),
            record=current_names(RECORD, _json(model / RECORD)),
            run={} if run is None else run.facts,
            folder=model if run is None else run.path,
        )

    @property
    def start(self) -> Path | None:
        """The folder of the weights that the run started from; None when they were random or there is no run.

        Of a published model or a repository on the Hub that is not here any more, its name.
        """
        found = _within(self.run, "config", "model").get("checkpoint")
        if not found or not isinstance(found, str):
            return None
        return find_here(found) or Path(found).expanduser()

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, sorted."""
        return sorted(self.model.glob("*.safetensors"))


def _within(facts: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping under these keys; empty where a file that somebody changed has something else there."""
    for key in keys:
        inner = facts.get(key)
        facts = inner if isinstance(inner, dict) else {}
    return facts


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_object(path, kind=ModelError, wanted="one JSON object", fix="restore the file")


# --- what is known --------------------------------------------------------------------------------


def trace(checkpoint: Checkpoint, seen: frozenset[Path] = frozenset()) -> list[Link]:
    """Everything known about where the weights come from, the nearest first. Never empty, and judges nothing."""
    links = [*_recorded(checkpoint), *_marked(checkpoint)]
    start = checkpoint.start
    if start is not None:
        try:
            before = Checkpoint.at(start)
        except ModelError:
            before = None
        if before is not None and before.model not in seen:
            links.append(Link(checkpoint.model, "trained further"))
            links += trace(before, seen | {checkpoint.model})
        elif not links:
            reason = f"the weights it started from, {start}, cannot be read"
            links.append(Link(checkpoint.model, "fine-tuned", may_publish=None, reason=reason))
    elif not links and checkpoint.run:
        links.append(Link(checkpoint.model, f"trained from {SCRATCH}"))
    if not links:
        reason = f"neither {NOTE} nor {RECORD} says where they come from"
        links.append(Link(checkpoint.model, "unknown", may_publish=None, reason=reason))
    return links + list(_parts(checkpoint))


def _recorded(checkpoint: Checkpoint) -> Iterator[Link]:
    """What ``provenance.json`` says."""
    record, model = checkpoint.record, checkpoint.model
    if not record:
        return
    license, may = record.get("weights_license"), record.get("may_publish")
    facts = {key: value for key, value in record.items() if key.startswith("source_")}
    how = f"weights of {facts['source_repository']}" if facts.get("source_repository") else "recorded"
    sums = record.get("weights_sha256") or {}
    if may is False:
        yield Link(model, how, license, False, allowed=str(record.get("allowed") or ""), facts=facts)
    elif sums and checkpoint.weight_files and sums != {p.name: sha256_file(p) for p in checkpoint.weight_files}:
        yield Link(model, how, may_publish=None, reason=f"{RECORD} was written for other weights")
    elif "weights_license" in record or "may_publish" in record:
        if not isinstance(license, str) or not license.strip() or may is not True:
            reason = f"{RECORD} needs weights_license (text) and may_publish (true or false)"
            yield Link(model, how, may_publish=None, reason=reason)
            return
        yield Link(model, how, license, True, facts=facts)
        if facts.get("source_verified") is False:
            yield Link(model, how, may_publish=None, reason=_not_the_published(facts))
    elif record.get("trained_from") == SCRATCH:
        yield Link(model, f"trained from {SCRATCH}")


def _marked(checkpoint: Checkpoint) -> Iterator[Link]:
    """What ``config.json`` carries of converted weights, also after they were trained further."""
    facts = {key: value for key, value in checkpoint.config.items() if key.startswith("source_")}
    license = facts.get("source_license")
    if not license:
        return
    how, may = f"weights of {facts.get('source_repository', 'others')}", facts.get("source_may_publish")
    reason = ""
    if may is None and spdx(license):
        may = True
    elif may is None:
        reason = f"nothing says whether the license {license!r} allows publishing"
        if checkpoint.record.get("may_publish") is True:
            return
    elif may is False:
        reason = "the configuration of the weights says no"
    if may and facts.get("source_verified") is False:
        may, reason = None, _not_the_published(facts)
    yield Link(checkpoint.model, how, str(license), may, reason, facts=facts)


def _not_the_published(facts: dict[str, Any]) -> str:
    sha256 = str(facts.get("source_sha256", "unknown"))[:12]
    return f"they were converted with --unverified or --sha256: {sha256} is not the sum of a published file"


def _parts(checkpoint: Checkpoint) -> Iterator[Link]:
    """Cards of others whose content is saved with the tokenizer or in the weights."""
    settings = _within(checkpoint.run, "config", "tokenizer")
    named = {"vocabulary": settings.get("vocabulary"), "gene vectors": _within(settings, "options").get("vectors")}
    for part, name in named.items():
        if not isinstance(name, str) or name == "fit":
            continue
        if (Path(name) / RECORD).is_file():
            beside = Checkpoint(Path(name), {}, current_names(RECORD, _json(Path(name) / RECORD)), {}, Path(name))
            no = [link for link in _recorded(beside) if link.may_publish is False]
            yield from (Link(link.folder, part, link.license, False, allowed=link.allowed) for link in no)
            continue
        try:
            card = load_card(name)
        except (ScmfError, OSError):
            continue  # a file of the publisher's own
        if not spdx(card.license):
            reason = f"{part} {card.name!r} stands under {card.license!r}, which is not known to allow publishing"
            yield Link(checkpoint.model, f"{part} {card.name}", card.license, None, reason)


# --- what follows ---------------------------------------------------------------------------------


def spdx(license: str) -> str | None:
    """The identifier of a license that lets everybody pass a work on; None for every other text."""
    return PERMISSIVE.get(str(license).strip().lower())


def judge(checkpoint: Checkpoint, links: Sequence[Link]) -> str | None:
    """The license under which the weights must be published; None when that is for the publisher to say.

    Raises
    ------
    ModelError
        If a license forbids it, or it cannot be shown that they may be published.
    """
    chain = " <- ".join(dict.fromkeys(str(link.folder) for link in links))
    for link in links:
        if link.may_publish is False:
            raise ModelError(
                f"weights that must not be published, under {link.license or 'a license that is not named'!r}",
                wanted="weights whose license lets you pass them on",
                where=chain,
                fix=f"allowed: {link.allowed}" if link.allowed else _NO,
            )
    for link in links:
        if link.may_publish is None and not _checked(checkpoint.record):
            raise ModelError(
                f"weights that cannot be shown to be yours to publish: {link.reason}",
                wanted="weights trained from random ones, or whose license is recorded and allows it",
                where=chain,
                fix=_STATE,
            )
    licenses = dict.fromkeys(spdx(link.license) or link.license for link in links if link.license)
    return " AND ".join(licenses) or None


def _checked(record: dict[str, Any]) -> bool:
    """Whether a person says, with a license, that the weights may be published."""
    texts = [record.get(key) for key in ("checked", "weights_license")]
    return record.get("may_publish") is True and all(isinstance(text, str) and text.strip() for text in texts)


def training_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """What training writes as ``provenance.json`` beside the weights, so that they know their origin when they move.

    Parameters
    ----------
    checkpoint
        A folder that was just trained, with its ``run.json``.
    """
    record: dict[str, Any] = {"weights_sha256": {path.name: sha256_file(path) for path in checkpoint.weight_files}}
    links = trace(checkpoint)
    doubts = [link.reason for link in links if link.may_publish is None]
    if checkpoint.start is None:
        return record | {"trained_from": ", with ".join([SCRATCH, *doubts])}
    known = [link for link in links if link.license]
    record["trained_from"] = "other weights"
    if known and not doubts:
        forbidding = [link for link in known if link.may_publish is False]
        record |= {
            "weights_license": " AND ".join(dict.fromkeys(str(link.license) for link in forbidding or known)),
            "may_publish": not forbidding,
            **({"allowed": forbidding[0].allowed} if forbidding and forbidding[0].allowed else {}),
            **known[0].facts,
        }
    return record


def cells_card(checkpoint: Checkpoint) -> Any:
    """The card of the cells that the run was trained on; None for own files and where there is no run."""
    name = _within(checkpoint.run, "config", "data").get("dataset")
    if not name or not isinstance(name, str):
        return None
    try:
        return load_card(name)
    except (ScmfError, OSError):
        return None
