"""Files over the network: package index, Hub, address.

Lives here: one function for each kind of source, which writes the bytes to a given path, with a progress
bar on stderr. Lives elsewhere: which source is tried when, the cache, the checksum of the file (sources).
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from scmf.core import progress
from scmf.core.errors import ChecksumError
from scmf.core.files import sha256_file
from scmf.core.redact import file_name, hide_address, hide_text
from scmf.data.cards.card import HubSource, IndexSource, UrlSource

_CHUNK = 1 << 16
_TIMEOUT = (10, 60)
"""Seconds to connect, and between two blocks."""


class UnavailableError(Exception):
    """A source cannot deliver; the reason is the message."""


def verify(path: Path, sha256: str, *, fix: str, where: object | None = None) -> None:
    """Raise `ChecksumError` unless the file at ``path`` has this sha256.

    Parameters
    ----------
    path
        The file.
    sha256
        What the card says.
    fix
        What to do about another file.
    where
        How to call the file in the error; its path when None.
    """
    found = sha256_file(path)
    if found == sha256:
        return
    with path.open("rb") as handle:
        is_pointer = handle.read(24) == b"version https://git-lfs."
    what = "a Git LFS pointer, not the file itself" if is_pointer else f"sha256 {found}"
    raise ChecksumError(
        f"{what} ({path.stat().st_size:,} bytes)", wanted=f"sha256 {sha256}", where=where or path, fix=fix
    )


def index_url() -> str:
    """The package index: ``SCMF_INDEX_URL``, else ``PIP_INDEX_URL``, else PyPI."""
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    return os.environ.get("SCMF_INDEX_URL") or os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT


class _Bar:
    """A bar of `scmf.core.progress` with the methods that pypi-simple calls."""

    def __init__(self, title: str, total: int | None) -> None:
        self._shown = progress.bar(title, total, unit="B")

    def __enter__(self) -> Self:
        self._bar = self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)

    def update(self, increment: int) -> None:
        """Advance by ``increment`` bytes."""
        self._bar.advance(increment)


def _session() -> Any:
    """A requests session that tries again when a connection cannot be opened.

    Besides the certificates of requests it trusts those of the operating system, as pip does: an
    institute's proxy or mirror often has its own.
    """
    import ssl

    import requests
    import truststore
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class SystemTrust(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
            context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            super().init_poolmanager(*arguments, **keywords, ssl_context=context)

    session = requests.Session()
    retry = Retry(
        total=2, read=0, backoff_factor=0.2, status_forcelist=(502, 503, 504), allowed_methods=("GET", "HEAD")
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, SystemTrust(max_retries=retry))
    return session


def download(source: IndexSource | HubSource | UrlSource, target: Path) -> None:
    """Write the file that ``source`` names to ``target``.

    Parameters
    ----------
    source
        Where to get it.
    target
        Where to write it; half a file may lie there after an error.

    Raises
    ------
    UnavailableError
        The source does not answer, has no such file, or the connection dropped.
    ChecksumError
        The index serves another artifact than the card names.
    """
    match source:
        case IndexSource():
            _from_index(source, target)
        case HubSource():
            _from_hub(source, target)
        case UrlSource():
            _from_url(source, target)


def _from_index(source: IndexSource, target: Path) -> None:
    import requests
    from pypi_simple import (
        NoSuchProjectError,
        PyPISimple,
        UnparsableFilenameError,
        UnsupportedContentTypeError,
        UnsupportedRepoVersionError,
    )

    with tempfile.TemporaryDirectory(prefix=".index.", dir=target.parent) as folder, _session() as session:
        artifact = Path(folder) / source.artifact
        try:
            client = PyPISimple(index_url(), session=session)
            page = client.get_project_page(source.project, timeout=_TIMEOUT)
            found = [package for package in page.packages if package.filename == source.artifact]
            if not found:
                raise UnavailableError(f"the index has no {source.artifact} of {source.project} {source.version}")
            client.download_package(
                found[0],
                artifact,
                verify=False,  # the checksum of the card is the one that counts
                progress=lambda total: _Bar(source.artifact, total),
                timeout=_TIMEOUT,
            )
        except NoSuchProjectError as error:
            raise UnavailableError(f"the index has no project {source.project!r}") from error
        except (UnparsableFilenameError, UnsupportedContentTypeError, UnsupportedRepoVersionError) as error:
            raise UnavailableError(f"this is no package index: {error}") from error
        except requests.RequestException as error:
            raise UnavailableError(_reason(error)) from error
        verify(
            artifact,
            source.sha256,
            where=f"package index {hide_address(index_url())}, {source.artifact}",
            fix="the index serves another artifact under this name: compare with the card and do not use it",
        )
        _extract(artifact, source.member, target)


def _extract(artifact: Path, member: str, target: Path) -> None:
    """Copy one member of a wheel, zip or tar archive to ``target``; nothing else is unpacked."""

    def copy(handle: IO[bytes] | None) -> None:
        if handle is None:
            raise KeyError(member)
        with handle, target.open("wb") as out:
            shutil.copyfileobj(handle, out, _CHUNK)

    try:
        if zipfile.is_zipfile(artifact):
            with zipfile.ZipFile(artifact) as archive:
                copy(archive.open(member))
        else:
            with tarfile.open(artifact) as bundle:
                copy(bundle.extractfile(member))
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UnavailableError(f"the artifact has no readable member {member!r}") from error


def hub_errors() -> tuple[type[Exception], ...]:
    """What the Hub's own library raises when the Hub, or the way to it, fails."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    of_client = tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)  # httpx or httpx2
    return (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, *of_client)


def _from_hub(source: HubSource, target: Path) -> None:
    from huggingface_hub import hf_hub_download

    # Into a folder of its own, so that there is one cache and one copy.
    with tempfile.TemporaryDirectory(prefix=".hub.", dir=target.parent) as folder:
        try:
            path = hf_hub_download(
                source.repo,
                source.path,
                repo_type=source.repo_type,
                revision=source.revision,
                local_dir=folder,
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                tqdm_class=progress.hub_bar(),
            )
        except hub_errors() as error:
            raise UnavailableError(_reason(error)) from error
        Path(path).replace(target)


def _from_url(source: UrlSource, target: Path) -> None:
    import requests

    try:
        with _session() as session, session.get(source.url, stream=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None
            with (
                progress.bar(file_name(source.url), total, unit="B") as bar,
                target.open("wb") as out,
            ):
                for block in response.iter_content(_CHUNK):
                    out.write(block)
                    bar.advance(len(block))
    except requests.RequestException as error:
        raise UnavailableError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """First line of what a library says, with its kind, without secrets."""
    lines = str(error).strip().splitlines()
    return hide_text(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
