"""From a card to checked files: local mirror, installed package, package index, Hub, address.

Lives here: trying the sources of a file in the order of the card, the cache, the checksum that every
file must pass whether it was just fetched or found. Lives elsewhere: what a card says (cards), reading
what is in the files (load, vocabulary, genes).

A file that is there but is not the one the card names is an error and never skipped: a mirror with
other content is a fault to be seen, not a reason to go to the network. The one exception is a file of
an installed package, since packages change with their version; it is passed over and named if nothing
else delivers.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from scmf.data.cards import (
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
from scmf.errors import ChecksumError, SourceError
from scmf.files import atomic_path, cache_dir, data_dir, sha256_file

_CHUNK = 1 << 16
_TIMEOUT = (10, 60)
"""Seconds to connect, and between two blocks."""


class _UnavailableError(Exception):
    """A source cannot deliver; the reason is the message."""


def fetch(card: Card | str | Path, *, progress: bool = True) -> dict[str, Path]:
    """Every file of ``card``, checked.

    Parameters
    ----------
    card
        A card, its name or its path.
    progress
        Show a progress bar on stderr while downloading.

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
        No source could deliver; the message lists each with its reason.
    """
    if not isinstance(card, Card):
        card = load_card(card)
    return {file.name: fetch_file(card, file, progress=progress) for file in card.files}


def fetch_file(card: Card, file: CardFile, *, progress: bool = True) -> Path:
    """One file of ``card``, checked; see `fetch`."""
    reasons = []
    for local in _local(file):
        try:
            return _find(card, file, local)
        except _UnavailableError as error:
            reasons.append(f"{_say(local)}: {error}")
    cached = cache_dir() / card.name / f"{file.sha256[:12]}-{file.name}"
    if cached.is_file():
        _verify(cached, file.sha256, fix=f"delete {cached} and run the command again")
        return cached
    for source in file.sources:
        if isinstance(source, MirrorSource | InstalledSource):
            continue
        try:
            with atomic_path(cached) as temporary:
                _download(source, temporary, progress=progress)
                _verify(
                    temporary,
                    file.sha256,
                    where=_say(source),
                    fix="the publisher changed the file, or something on the way did: compare with the card "
                    "and do not use it",
                )
            return cached
        except _UnavailableError as error:
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
            return f"package index {_redacted(index_url())}, {source.artefact}, {source.member}"
        case HubSource():
            return f"Hub {source.repo}@{source.revision[:12]}, {source.path}"
        case UrlSource():
            return f"address {_redacted(source.url)}"


def _redacted(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _verify(path: Path, sha256: str, *, fix: str, where: object | None = None) -> None:
    found = sha256_file(path)
    if found == sha256:
        return
    with path.open("rb") as handle:
        is_pointer = handle.read(24) == b"version https://git-lfs."
    what = "a Git LFS pointer, not the file itself" if is_pointer else f"sha256 {found}"
    raise ChecksumError(
        f"{what} ({path.stat().st_size:,} bytes)", wanted=f"sha256 {sha256}", where=where or path, fix=fix
    )


# --- files that are already on this machine -------------------------------------------------------


def _find(card: Card, file: CardFile, source: MirrorSource | InstalledSource) -> Path:
    if isinstance(source, InstalledSource):
        spec = importlib.util.find_spec(source.package)
        if spec is None or not spec.submodule_search_locations:
            raise _UnavailableError("the package is not installed")
        path = Path(next(iter(spec.submodule_search_locations))) / source.path
        if not path.is_file():
            raise _UnavailableError("the installed version does not bring this file")
        if (found := sha256_file(path)) != file.sha256:
            raise _UnavailableError(f"the installed version brings another file (sha256 {found[:12]}...)")
        return path
    mirror = data_dir()
    roots = [root for root in (mirror, None if card.is_shipped else card.folder) if root is not None]
    if not roots:
        raise _UnavailableError("SCMF_DATA_DIR is not set")
    for root in roots:
        path = root / source.path
        if path.is_file():
            _verify(path, file.sha256, fix="replace the file, or unset SCMF_DATA_DIR to fetch it from its publisher")
            return path
    raise _UnavailableError("no such file in " + " or ".join(str(root) for root in roots))


# --- files that come over the network -------------------------------------------------------------


def index_url() -> str:
    """The package index: ``SCMF_INDEX_URL``, else ``PIP_INDEX_URL``, else PyPI."""
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    return os.environ.get("SCMF_INDEX_URL") or os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT


class _Bar:
    """Progress of one download on stderr: a bar on a terminal, one final line when piped."""

    def __init__(self, title: str, total: int | None, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, increment: int) -> None:
        """Advance by ``increment`` bytes."""
        self._progress.advance(self._task, increment)


def _session() -> Any:
    """A requests session that tries again when a connection cannot be opened."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    retry = Retry(
        total=2, read=0, backoff_factor=0.2, status_forcelist=(502, 503, 504), allowed_methods=("GET", "HEAD")
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _download(source: Source, target: Path, *, progress: bool) -> None:
    """Write the file to ``target`` or raise `_UnavailableError`."""
    match source:
        case IndexSource():
            _from_index(source, target, progress=progress)
        case HubSource():
            _from_hub(source, target, progress=progress)
        case UrlSource():
            _from_url(source, target, progress=progress)


def _from_index(source: IndexSource, target: Path, *, progress: bool) -> None:
    import requests
    from pypi_simple import (
        NoSuchProjectError,
        PyPISimple,
        UnparsableFilenameError,
        UnsupportedContentTypeError,
        UnsupportedRepoVersionError,
    )

    with tempfile.TemporaryDirectory(prefix=".index.", dir=target.parent) as folder, _session() as session:
        artefact = Path(folder) / source.artefact
        try:
            client = PyPISimple(index_url(), session=session)
            page = client.get_project_page(source.project, timeout=_TIMEOUT)
            found = [package for package in page.packages if package.filename == source.artefact]
            if not found:
                raise _UnavailableError(f"the index has no {source.artefact} of {source.project} {source.version}")
            client.download_package(
                found[0],
                artefact,
                verify=False,  # the checksum of the card is the one that counts
                progress=lambda total: _Bar(source.artefact, total, shown=progress),
                timeout=_TIMEOUT,
            )
        except NoSuchProjectError as error:
            raise _UnavailableError(f"the index has no project {source.project!r}") from error
        except (UnparsableFilenameError, UnsupportedContentTypeError, UnsupportedRepoVersionError) as error:
            raise _UnavailableError(f"this is no package index: {error}") from error
        except requests.RequestException as error:
            raise _UnavailableError(_reason(error)) from error
        _verify(
            artefact,
            source.sha256,
            where=_say(source),
            fix="the index serves another artefact under this name: compare with the card and do not use it",
        )
        _extract(artefact, source.member, target)


def _extract(artefact: Path, member: str, target: Path) -> None:
    """Copy one member of a wheel, zip or tar archive to ``target``; nothing else is unpacked."""

    def copy(handle: IO[bytes] | None) -> None:
        if handle is None:
            raise KeyError(member)
        with handle, target.open("wb") as out:
            shutil.copyfileobj(handle, out, _CHUNK)

    try:
        if zipfile.is_zipfile(artefact):
            with zipfile.ZipFile(artefact) as archive:
                copy(archive.open(member))
        else:
            with tarfile.open(artefact) as bundle:
                copy(bundle.extractfile(member))
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise _UnavailableError(f"the artefact has no readable member {member!r}") from error


def _from_hub(source: HubSource, target: Path, *, progress: bool) -> None:
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils.tqdm import tqdm

    class Quiet(tqdm):  # type: ignore[type-arg, misc]
        """The Hub's own progress bar, switched off."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    # Into a folder of its own, so that there is one cache and one copy.
    with tempfile.TemporaryDirectory(prefix=".hub.", dir=target.parent) as folder:
        try:
            path = hf_hub_download(
                source.repo,
                source.path,
                repo_type=source.repo_type,
                revision=source.revision,
                local_dir=folder,
                tqdm_class=tqdm if progress else Quiet,
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
            raise _UnavailableError(_reason(error)) from error
        Path(path).replace(target)


def _from_url(source: UrlSource, target: Path, *, progress: bool) -> None:
    import requests

    try:
        with _session() as session, session.get(source.url, stream=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None
            with _Bar(Path(source.url).name, total, shown=progress) as bar, target.open("wb") as out:
                for block in response.iter_content(_CHUNK):
                    out.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        raise _UnavailableError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """First line of what a library says, with its kind, without passwords."""
    lines = str(error).strip().splitlines()
    return _redacted(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
