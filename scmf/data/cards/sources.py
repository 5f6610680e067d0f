"""From a card to checked files: local mirror, installed package, package index, Hub, address.

Lives here: trying the sources of a file in the order of the card, the cache, the checksum that every
file must pass whether it was just fetched or found. Lives elsewhere: what a card says (cards), the
network (downloads), reading what is in the files (load, vocabulary, genes).

A file that is there but is not the one the card names is an error and never skipped: a mirror with
other content is a fault to be seen, not a reason to go to the network. The one exception is a file of
an installed package, since packages change with their version; it is passed over and named if nothing
else delivers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from scmf.core.errors import SourceError
from scmf.core.files import atomic_path, sha256_file
from scmf.core.paths import cache_dir, data_dir
from scmf.core.redact import hide_address
from scmf.data.cards.card import (
    Card,
    CardFile,
    HubSource,
    IndexSource,
    InstalledSource,
    MirrorSource,
    Source,
    UrlSource,
    load_card,
)
from scmf.data.cards.downloads import UnavailableError, download, index_url, verify


def fetch(card: Card | str | Path) -> dict[str, Path]:
    """Every file of ``card``, checked.

    Parameters
    ----------
    card
        A card, its name or its path.

    Returns
    -------
    dict
        File name -> path. A file of a mirror or an installed package is used where it lies; the
        others are in ``<cache>/<card>/<first 12 of sha256>-<name>``.

    Raises
    ------
    ChecksumError
        A file was found or fetched that is not the one the card names.
    SourceError
        No source could deliver; the message lists each with its reason. The card has no files and says what to fetch
        by hand.
    """
    if not isinstance(card, Card):
        card = load_card(card)
    if not card.files:
        raise SourceError(
            "a card without files: its publisher gives no checksum to hold a download against",
            wanted="a download by hand",
            where=f"card {card.name!r}" + (f" ({card.path})" if card.path else ""),
            fix=card.needs_download,
        )
    return {file.name: fetch_file(card, file) for file in card.files}


def status(card: Card) -> str:
    """``here``, ``fetched on first use``, ``needs SCMF_DATA_DIR`` or ``needs a download``; no file is opened."""
    if card.needs_download:
        return "needs a download"
    if all(is_here(card, file) for file in card.files):
        return "here"
    remote = all(any(not isinstance(source, MirrorSource) for source in file.sources) for file in card.files)
    return "fetched on first use" if remote else "needs SCMF_DATA_DIR"


def is_here(card: Card, file: CardFile) -> bool:
    """Whether a file lies in the cache, in a mirror or in an installed package."""
    if (cache_dir() / card.name / f"{file.sha256[:12]}-{file.name}").is_file():
        return True
    roots = [root for root in (data_dir(), None if card.is_shipped else card.folder) if root is not None]
    for source in _local(file):
        if isinstance(source, InstalledSource):
            place = _place_of(source.package)
            if place is not None and (place / source.path).is_file():
                return True
        elif any((root / source.path).is_file() for root in roots):
            return True
    return False


def fetch_file(card: Card, file: CardFile) -> Path:
    """One file of ``card``, checked; see `fetch`."""
    reasons = []
    for local in _local(file):
        try:
            return _find(card, file, local)
        except UnavailableError as error:
            reasons.append(f"{_say(local)}: {error}")
    cached = cache_dir() / card.name / f"{file.sha256[:12]}-{file.name}"
    if cached.is_file():
        verify(cached, file.sha256, fix=f"delete {cached} and run the command again")
        return cached
    for source in file.sources:
        if isinstance(source, MirrorSource | InstalledSource):
            continue
        try:
            with atomic_path(cached) as temporary:
                download(source, temporary)
                verify(
                    temporary,
                    file.sha256,
                    where=_say(source),
                    fix="the publisher changed the file, or something on the way did: compare with the card "
                    "and do not use it",
                )
            return cached
        except UnavailableError as error:
            reasons.append(f"{_say(source)}: {error}")
    raise SourceError(
        f"no source delivered {file.name!r}\n  " + "\n  ".join(reasons),
        wanted=f"sha256 {file.sha256}",
        where=f"card {card.name!r}" + (f" ({card.path})" if card.path else ""),
        fix=_advice(file),
    )


def _local(file: CardFile) -> list[MirrorSource | InstalledSource]:
    return [source for source in file.sources if isinstance(source, MirrorSource | InstalledSource)]


def _advice(file: CardFile) -> str:
    mirror = next((source.path for source in file.sources if isinstance(source, MirrorSource)), None)
    if mirror is None:
        return "connect this machine to one of them"
    return f"connect this machine to one of them, or put the file at $SCMF_DATA_DIR/{mirror}"


def _say(source: Source) -> str:
    match source:
        case MirrorSource():
            return f"mirror {source.path}"
        case InstalledSource():
            return f"installed package {source.package}, {source.path}"
        case IndexSource():
            return f"package index {hide_address(index_url())}, {source.artifact}, {source.member}"
        case HubSource():
            return f"Hub {source.repo}@{source.revision[:12]}, {source.path}"
        case UrlSource():
            return f"address {hide_address(source.url)}"


# --- files that are already on this machine -------------------------------------------------------


def _place_of(package: str) -> Path | None:
    """Folder of a package, of which no code is run: Python imports the packages that a dotted name lies in."""
    first, *below = package.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    place = Path(next(iter(spec.submodule_search_locations))).joinpath(*below)
    return place if place.is_dir() else None


def _find(card: Card, file: CardFile, source: MirrorSource | InstalledSource) -> Path:
    if isinstance(source, InstalledSource):
        place = _place_of(source.package)
        if place is None:
            raise UnavailableError("the package is not installed")
        path = place / source.path
        if not path.is_file():
            raise UnavailableError("the installed version does not bring this file")
        if (found := sha256_file(path)) != file.sha256:
            raise UnavailableError(f"the installed version brings another file (sha256 {found[:12]}...)")
        return path
    mirror = data_dir()
    roots = [root for root in (mirror, None if card.is_shipped else card.folder) if root is not None]
    if not roots:
        raise UnavailableError("SCMF_DATA_DIR is not set")
    for root in roots:
        path = root / source.path
        if path.is_file():
            verify(path, file.sha256, fix="replace the file, or unset SCMF_DATA_DIR to fetch it from its publisher")
            return path
    raise UnavailableError("no such file in " + " or ".join(str(root) for root in roots))
