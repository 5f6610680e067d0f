"""A folder becomes one commit on a Hugging Face Hub, at ``HF_ENDPOINT`` or huggingface.co.

`HfApi.upload_folder` cuts large uploads into several commits; here it is one, `HfApi.create_commit`: whoever looks at
the repository sees all of it or nothing. Lives here: names, tokens, existing repositories, the commit, comparing what
arrived, errors of the Hub in our words. Lives elsewhere: what is in the folder (folder, card).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.errors import ConfigError, ModelError
from scmf.core.files import sha256_file
from scmf.core.redact import hide_address

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB = "https://huggingface.co"
_OF_THE_HUB = {".gitattributes"}
"""Files that the Hub itself puts into a new repository."""


def check_name(repo: str) -> None:
    """Raise `ConfigError` unless ``repo`` is a name of the form ``owner/name`` that the Hub takes."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    problem = None if _REPO.fullmatch(repo) else "not of the form owner/name"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        problem = str(error)
    if problem:
        raise ConfigError(
            f"repository {repo!r}: {problem}",
            wanted="owner/name of letters, digits, '-', '_' and '.', at most 96 of them",
            where="--repo",
            fix="for example --repo my-lab/geneformer-pancreas",
        )


def endpoint() -> str:
    """Address of the Hub."""
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def address(name: str) -> str:
    """Address of the page of a repository, without credentials."""
    return hide_address(f"{endpoint()}/{name}")


@dataclass(frozen=True)
class Repository:
    """A repository of models, looked at before anything is sent.

    Parameters
    ----------
    name
        ``owner/name``.
    head
        The commit it is at; None when it does not exist.
    files
        Paths that it holds, other than those of the Hub itself.
    """

    name: str
    head: str | None
    files: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        """Address of its page."""
        return address(self.name)


def look(name: str, *, private: bool, update: bool) -> Repository:
    """See whether a folder can be published as ``name``.

    Raises
    ------
    ConfigError
        If there is no token, the repository holds files and ``update`` is not set, or it is public and
        ``private`` was asked for.
    ModelError
        If the Hub cannot be reached or says no.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not get_token():
        raise ConfigError(
            "no token for the Hub",
            wanted="a token with the right to write",
            where=endpoint(),
            fix="set HF_TOKEN or run `hf auth login`; --dry-run makes the folder without a Hub",
        )
    with _in_our_words(name, "the Hub did not say whether the repository exists"):
        try:
            info = _api().model_info(name)
        except RepositoryNotFoundError:
            return Repository(name, None)
    found = Repository(name, info.sha, frozenset(file.rfilename for file in info.siblings or []) - _OF_THE_HUB)
    if found.files and not update:
        raise ConfigError(
            f"repository {name!r} exists and holds {len(found.files)} files",
            wanted="a new or an empty one",
            where=found.url,
            fix="choose another --repo, or replace its files in one commit with --update",
        )
    if private and not info.private:
        raise ConfigError(
            f"repository {name!r} exists and is public",
            wanted="a private one, as --private asks",
            where=found.url,
            fix="make it private on its settings page, or choose another --repo",
        )
    return found


def push(folder: Path, repository: Repository, *, private: bool, message: str) -> str:
    """Send ``folder`` as one commit, in place of all files that were there, and compare what arrived.

    Returns
    -------
    str
        The commit.

    Raises
    ------
    ModelError
        If the Hub says no or cannot be reached, or what it holds differs. No file is visible then, unless the
        error says so.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, name, head = _api(), repository.name, repository.head
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    operations: list[Any] = [CommitOperationAdd(path.name, path) for path in paths]
    gone = repository.files - {path.name for path in paths}
    operations += [CommitOperationDelete(path) for path in sorted(gone)]
    with _in_our_words(name, "the repository could not be made"):
        if head is None:
            api.create_repo(name, private=private, exist_ok=True)
            head = api.model_info(name).sha
    with _in_our_words(name, "the upload did not finish and nothing of it is visible"):
        commit: str = api.create_commit(name, operations, commit_message=message, parent_commit=head).oid
    with _in_our_words(name, f"commit {commit} could not be compared with the folder"):
        tree = list(api.list_repo_tree(name, revision=commit, recursive=True))
    arrived = {file.path: file for file in tree if hasattr(file, "blob_id")}
    for path in paths:
        file = arrived.get(path.name)
        if file is None or not _same(path, file):
            raise ModelError(
                f"{path.name} of commit {commit} {'is missing' if file is None else 'has another content'}",
                wanted="what lies in the folder",
                where=repository.url,
                fix="publish again with --update",
            )
    return commit


def _same(path: Path, file: Any) -> bool:
    """Whether a file of the repository is ours: by sha256 of large files, by git's own checksum of small ones."""
    if file.size != path.stat().st_size:
        return False
    if file.lfs is not None:
        return bool(file.lfs.sha256 == sha256_file(path))
    content = path.read_bytes()
    return bool(file.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="scmodelforge")


@contextmanager
def _in_our_words(name: str, failed: str) -> Iterator[None]:
    """Errors of the Hub and of the way to it, as one `ModelError`."""
    from huggingface_hub.errors import HfHubHTTPError

    network: Any = HfHubHTTPError.__bases__  # HTTPError of the client that it uses, and OSError
    try:
        yield
    except (*network, ValueError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        fix = "check the network and HF_ENDPOINT; the same command goes on"
        if status in (401, 403):
            fix = f"give a token that may write to {name.partition('/')[0]!r} (HF_TOKEN)"
        elif "xet" in str(error).lower():
            fix = "set HF_HUB_DISABLE_XET=1 for a Hub without Xet; the same command goes on"
        elif status is not None:
            fix = "the same command goes on"
        raise ModelError(
            f"{failed}: {' '.join(lines[:2])}", wanted="an answer of the Hub", where=f"{endpoint()}/{name}", fix=fix
        ) from error
