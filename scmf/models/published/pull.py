"""From the name of a published model to a folder that every command takes: fetched, verified, converted once.

A folder appears whole or not at all, and one process makes it while others wait. Lives here: what is tried in which
order, when a file is believed, what is recorded. Lives elsewhere: what was published (cards), what is here already
(cached), the layout of official files (the converters), what a word on the command line means (names).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core import manifest, registry
from scmf.core.errors import ChecksumError, ConfigError, ModelError, SourceError
from scmf.core.files import atomic_path, sha256_file, write_json
from scmf.core.locks import one_writer
from scmf.core.outputs import try_folder
from scmf.core.owned import new_folder
from scmf.core.paths import cache_dir
from scmf.core.progress import quiet_transformers
from scmf.data.cards.downloads import UnavailableError, download, verify
from scmf.data.genes.vocabulary import load_vocabulary
from scmf.models.published.cached import MARK, Pulled, here
from scmf.models.published.cards import OWN, PublishedModel, published
from scmf.models.published.converter import Converter

log = logging.getLogger(__name__)

_PAUSE_S = 0.3


class _BusyError(ModelError):
    """Another process makes the folder."""


def pull(
    name: str | PublishedModel,
    *,
    source: Path | None = None,
    out: Path | None = None,
    sha256: str | None = None,
    unverified: bool = False,
    again: bool = False,
    tokenizer: bool = True,
    **options: Any,
) -> Pulled:
    """Have a published model here as a folder with weights, code and tokenizer.

    Parameters
    ----------
    name
        ``recipe@variant``.
    source
        Official file or folder that was got by hand; None: it is fetched at the pinned revision.
    out
        A new folder; None: the cache, where a second call finds it.
    sha256
        What the official file must have, for files of which no sum was published.
    unverified
        Accept a file that is not known to be the published one; its sum is recorded.
    again
        Make the folder in the cache anew.
    tokenizer
        Save the tokenizer along; only without one in ``out``.
    options
        Of one family's converter; only with ``out``.

    Raises
    ------
    ConfigError
        No such model, or options that it does not have.
    SourceError
        It cannot be fetched.
    ChecksumError
        The file is not the one that was published, or nothing was published to tell.
    ModelError
        There is nothing to fetch (the message says what to do), or the weights do not fit.
    """
    model = published(name) if isinstance(name, str) else name
    asked = _Asked(source, sha256, unverified, tokenizer, {key: value for key, value in options.items() if value})
    _refuse_options(model, asked, out)
    if out is not None:
        if out.exists():
            raise ModelError("a folder that exists already", wanted="a new folder", where=out, fix="give another --out")
        try_folder(out, option="--out", inputs=[] if source is None else [source])
        with _alone(model) if source is None else nullcontext():  # another process removes what it has fetched
            return _make(model, asked, out)
    if not again and source is None and (found := here(model)) is not None:
        return found  # also where the cache cannot be written to
    try_folder(model.folder, option="SCMF_CACHE_DIR", need=_need(model, asked))
    with _alone(model):
        found = None if again else here(model)
        if found is not None and source is not None:
            _refuse_other_file(found, model, asked)
        return found or _make(model, asked, model.folder)


@dataclass(frozen=True)
class _Asked:
    """How a model is to be had; see `pull`."""

    source: Path | None
    sha256: str | None
    unverified: bool
    tokenizer: bool
    options: dict[str, Any]


def _converter(model: PublishedModel) -> type[Converter]:
    found: type[Converter] = registry.resolve("converters", model.card.converter)
    return found


def _refuse_options(model: PublishedModel, asked: _Asked, out: Path | None) -> None:
    """What does not go together, before anything is fetched."""
    unknown = sorted(set(asked.options) - _converter(model).options)
    if unknown:
        raise ConfigError(
            f"{unknown[0]} with {model.name}", wanted="an option of this model's converter", where="scmf models pull",
            fix=f"leave out --{unknown[0].replace('_', '-')}",
        )  # fmt: skip
    special = [*asked.options, *(() if asked.tokenizer else ("no_tokenizer",))]
    if out is None and (special or model.variant == OWN):
        what = f"--{special[0].replace('_', '-')}" if special else f"a checkpoint of one's own ({model.name})"
        raise ConfigError(
            f"{what} without --out", wanted="a folder for it: the cache holds published models as they were published",
            where="scmf models pull", fix="add --out FOLDER",
        )  # fmt: skip


def _need(model: PublishedModel, asked: _Asked) -> int:
    """Bytes that will be written, as far as that is known: what is fetched, and its conversion."""
    sizes = [file.size for file in model.facts.files if file.size]
    return 0 if not sizes else sizes[0] * (1 if asked.source is not None else 2)


@contextmanager
def _alone(model: PublishedModel) -> Iterator[None]:
    """Hold the lock of a model in the cache; wait for a process that makes it."""
    lock, told = model.folder.with_name(f".{model.name}.lock"), False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(one_writer(lock, f"pulling {model.name}", error=_BusyError))
                break
            except _BusyError as busy:
                if not told:
                    log.info(f"waiting: {busy.found}")
                told = True
                time.sleep(_PAUSE_S)
        yield


def _refuse_other_file(found: Pulled, model: PublishedModel, asked: _Asked) -> None:
    """The same file again is nothing new; another one must be meant."""
    assert asked.source is not None
    weights = _converter(model)(model, asked.source).weights
    if (sha256 := sha256_file(weights)) != found.sha256:
        raise ModelError(
            f"sha256 {sha256}", wanted=f"{found.sha256}, of which {found.folder} was made", where=weights,
            fix="give --again to make that folder of this file",
        )  # fmt: skip


# --- the official file ----------------------------------------------------------------------------


def _fetched(model: PublishedModel) -> Path:
    """The official file, fetched into the cache and verified where a sum was published."""
    if model.source is None:
        sums = f" (sha256 {' or '.join(model.sums)})" if model.sums else ""
        raise ModelError(
            f"{model.name} is not here, and nothing can be fetched automatically",
            wanted=f"a copy of {' or '.join(file.name for file in model.facts.files)}{sums}",
            where=model.card.url,
            fix=model.how,
        )
    file, place = model.source
    target = cache_dir() / "models" / ".files" / f"{place.revision[:12]}-{model.name}" / file.name
    if not target.is_file():
        log.info(f"fetching {model.name}: {file.path} of {place.repo} at {place.revision[:12]}")
        try:
            with atomic_path(target) as temporary:
                download(place, temporary)
        except UnavailableError as error:
            raise SourceError(
                f"the Hub did not deliver the file: {error}", wanted=f"{file.path} (sha256 {file.sha256})",
                where=f"{place.repo} at {place.revision[:12]}",
                fix=f"try again, or download it elsewhere: scmf models pull {model.name} --source FOLDER",
            ) from error  # fmt: skip
    if file.sha256 is not None:
        try:
            verify(
                target, file.sha256, where=f"{place.repo} at {place.revision[:12]}, {file.path}",
                fix="something on the way changed the file: do not use it, try again",
            )  # fmt: skip
        except ChecksumError:
            target.unlink()
            raise
    return target


def _judged(weights: Path, model: PublishedModel, asked: _Asked) -> tuple[str, bool]:
    """Checksum of a file, and whether it is a published one.

    Raises
    ------
    ChecksumError
        It is neither published nor accepted.
    """
    sha256 = sha256_file(weights)
    if asked.sha256 is not None and asked.sha256.strip().lower() != sha256:
        raise ChecksumError(
            f"sha256 {sha256}", wanted=asked.sha256, where=weights, fix="download the file again, or correct --sha256"
        )
    if sha256 in model.sums:
        return sha256, True
    if model.sums and not asked.unverified:
        raise ChecksumError(
            f"sha256 {sha256}", wanted=" or ".join(model.sums), where=weights,
            fix="download the file again, or give --unverified if it is meant to be another one",
        )  # fmt: skip
    if not model.sums and not asked.unverified and asked.sha256 is None:
        raise ChecksumError(
            f"sha256 {sha256}", wanted="a published sum, and none was ever published", where=weights,
            fix="compare it with a copy you trust and give --sha256 SUM; or give --unverified if you trust where the "
            "file comes from: the sum is recorded",
        )  # fmt: skip
    return sha256, False


# --- the folder -----------------------------------------------------------------------------------


def _make(model: PublishedModel, asked: _Asked, target: Path) -> Pulled:
    """Fetch, verify, convert; the folder appears whole or not at all."""
    if model.card.may_publish is False:
        log.warning(f"license of these weights: {model.card.license}")
    vocabulary = model.facts.vocabulary
    if asked.source is None and model.source is None:
        _fetched(model)  # says what to do
    tables = load_vocabulary(vocabulary) if asked.tokenizer and vocabulary is not None else None
    file = _fetched(model) if asked.source is None else asked.source.expanduser()
    converter = _converter(model)(model, file, tables=tables, **asked.options)
    sha256, verified = _judged(converter.weights, model, asked)
    log.info(f"converting {converter.weights.name} of {model.name}")
    network = converter.network()
    quiet_transformers()
    facts = _facts(model, converter, sha256=sha256, verified=verified)
    network.config.update(facts)
    with new_folder(target, what=f"converting {model.name}") as folder:
        network.save_pretrained(folder)
        if asked.tokenizer:
            converter.tokenizer().save_pretrained(folder)
        if model.card.may_publish is False:
            sums = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
            terms = {"weights_license": model.card.license, "may_publish": False, "allowed": model.card.allowed}
            write_json(folder / "provenance.json", {**terms, "weights_sha256": sums, **facts})
        mark = {"name": model.name, "digest": model.digest, "sha256": sha256, "verified": verified}
        manifest.seal(folder, {MARK: mark})
    if asked.source is None and (target == model.folder or here(model) is not None):
        file.unlink()  # it is here in our format now
        with suppress(OSError):  # what a killed process left of its download
            file.parent.rmdir()
    return Pulled(model, target, sha256, verified, made=True)


def _facts(model: PublishedModel, converter: Converter, *, sha256: str, verified: bool) -> dict[str, Any]:
    """What ``config.json`` says of the origin, for `scmf.models.origin`."""
    card = model.card
    facts = {
        "source_recipe": card.recipe,
        "source_variant": model.variant,
        "source_repository": card.repository,
        "source_revision": card.revision if verified and model.source is not None else None,
        "source_file": converter.weights.name,
        "source_sha256": sha256,
        "source_verified": verified,
        "source_license": card.license,
        **converter.facts(),
    }
    return facts if card.may_publish is None else {**facts, "source_may_publish": card.may_publish}
