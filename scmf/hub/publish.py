"""The verb ``publish``: a trained or converted checkpoint becomes a folder that stands alone, and is pushed to a Hub.

The folder holds weights, configuration, code and tokenizer as they were saved, and written anew::

    README.md         the model card
    LICENSE           under what weights, code and cells stand
    training.yaml     the configuration of the run, for `scmf train`
    results.json      scores with definitions and provenance
    provenance.json   license, origin, checksums of all files

Lives here: the order of the steps; what costs nothing is refused first. Lives elsewhere: each step (origin, results,
folder, check, card, upload).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scmf.core import manifest, provenance, registry
from scmf.core.errors import ConfigError
from scmf.core.files import write_json, write_text
from scmf.core.outputs import try_folder
from scmf.core.shareable import published, shareable
from scmf.core.yaml import dump_yaml
from scmf.hub import folder as folders
from scmf.hub import upload
from scmf.hub.card import Subject, card_text, training_yaml
from scmf.hub.check import check_alone, foreign_code
from scmf.hub.results import Model, gather
from scmf.models.checkpoint import verify_model
from scmf.models.origin import RECORD, Checkpoint, Link, cells_card, judge, spdx, trace
from scmf.models.published.names import find_model

log = logging.getLogger(__name__)

OWN_LICENCE = "Apache-2.0"
"""Of weights that were trained from random ones, unless the publisher names another."""


def publish(
    folder: Path | str,
    repo: str,
    *,
    out: Path | None = None,
    results: Sequence[Path] = (),
    license: str | None = None,
    private: bool = False,
    update: bool = False,
    dry_run: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Make the folder and push it as one commit.

    Parameters
    ----------
    folder
        Folder of a run or of a checkpoint, or the name of a published model.
    repo
        ``owner/name``.
    out
        The folder to make; ``<folder>.published`` when None. One that was made here is replaced.
    results
        Files or folders with scores of this model.
    license
        License of weights that you trained from random ones. Weights that come from others keep theirs.
    private
        Make the repository private.
    update
        Replace the files of a repository that holds some, in one commit.
    dry_run
        Make the folder and push nothing; no token and no network are needed.
    trust
        Run code in the folder that is not of this installation.

    Returns
    -------
    dict
        ``url``, ``commit`` (None in a dry run), ``folder``, ``license``, ``files``, ``bytes``, ``left_behind``.

    Raises
    ------
    ConfigError
        Name, license, results, token or repository are not as they must be.
    ModelError
        The weights must not be published, the folder does not stand alone, or the Hub says no.
    """
    upload.check_name(repo)
    found = find_model(folder)
    checkpoint = Checkpoint.at(found.folder)
    if trust:
        registry.trust()
    verify_model(checkpoint.model)
    base = found.folder.resolve()
    usual = base if found.word == str(found.folder) else Path(found.word.replace("/", "--")).resolve()  # not the cache
    out = Path(out) if out is not None else usual.with_name(f"{usual.name}.published")
    try_folder(out, option="--out", inputs=[base], need=sum(path.stat().st_size for path in checkpoint.weight_files))
    links = trace(checkpoint)
    inherited = judge(checkpoint, links)
    cells = cells_card(checkpoint)
    terms = _terms(inherited, license, cells)
    model = Model.of(checkpoint)
    scores = gather(results, model)
    repository = None if dry_run else upload.look(repo, private=private, update=update)
    with folders.whole_or_nothing(out) as building:
        log.info("putting the folder together")
        behind = folders.copy_checkpoint(checkpoint, building)
        log.info("loading it in a process with transformers alone")
        seen = check_alone(building, trust=trust, where=checkpoint.model)
        subject = Subject(repo, checkpoint, model, terms, links, seen, cells, scores)
        _write(building, subject)
        files, size = len(list(building.iterdir())), folders.size_of(building)
    answer = {
        "url": upload.address(repo),
        "commit": None,
        "folder": str(out),
        "license": terms,
        "files": files,
        "bytes": size,
        "left_behind": behind,
    }
    if repository is None:
        return answer
    log.info(f"sending {files} files, {size / 1e6:,.1f} MB, to {answer['url']}")
    message = f"{subject.title}, published with scmf {provenance.version()}"
    return {**answer, "commit": upload.push(out, repository, private=private, message=message)}


def _terms(inherited: str | None, asked: str | None, cells: Any) -> str:
    """The license of the weights."""
    if inherited is not None:
        if asked is not None and asked.strip().lower() != inherited.lower():
            raise ConfigError(
                f"--license {asked}",
                wanted=f"{inherited}, under which the weights it began with stand",
                where="--license",
                fix="leave --license out",
            )
        return inherited
    if asked is not None:
        return spdx(asked) or asked.strip()
    if cells is not None and spdx(cells.license) is None:
        raise ConfigError(
            f"weights trained on cells under {cells.license!r}",
            wanted="a license that you may give them",
            where=f"card {cells.name!r}",
            fix="read that license, and name yours with --license",
        )
    return OWN_LICENCE


def _write(folder: Path, subject: Subject) -> None:
    """Card, license, configuration, results and record."""
    run = subject.checkpoint.run
    if run:
        text = "# As it was trained. Own files are named without their folders; credentials are left out.\n"
        write_text(folder / "training.yaml", text + dump_yaml(training_yaml(run)))
    cells = "see README.md" if subject.cells is None else f"{subject.cells.title}, {subject.cells.license}"
    others = [name for name in foreign_code(folder) if name.endswith(".py")]
    note = folders.licence_note(subject.license, title=subject.title, source=subject.source, cells=cells, others=others)
    write_text(folder / "LICENSE", note)
    write_json(folder / "results.json", [published(result.to_json()) for result in subject.results])
    write_text(folder / "README.md", card_text(subject))
    manifest.seal(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    sums = folders.checksums(folder)
    source = shareable({key: value for key, value in subject.source.items() if key.startswith("source_")})
    record: dict[str, Any] = {
        "made_by": f"{folders.MADE_BY} {provenance.version()}",
        "weights_license": subject.license,
        "may_publish": True,
        "trained_from": "other weights" if any(link.license for link in subject.links) else "random weights",
        "origin": [_public_link(link) for link in subject.links],
        "recipe": subject.model.recipe,
        "variant": subject.model.variant,
        "recipe_digest": subject.model.digest,
        "seed": subject.model.seed,
        "run": published(run.get("provenance") or {}),
        "seen": subject.seen,
        "files": sums,
        "weights_sha256": {name: sha256 for name, sha256 in sums.items() if name.endswith(".safetensors")},
        **source,
    }
    if checked := subject.checkpoint.record.get("checked"):
        record["checked"] = shareable(checked)
    write_json(folder / RECORD, record)


def _public_link(link: Link) -> dict[str, Any]:
    known = {"how": link.how, "license": link.license, "folder": link.folder.name, "doubt": link.reason}
    return {key: shareable(value) for key, value in known.items() if value}
