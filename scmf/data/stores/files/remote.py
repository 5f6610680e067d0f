"""An address becomes a source of bytes: which library reads it, and with which options.

Lives here: `open_remote` and the names of storage options. Lives elsewhere: reading (remote_files, obstore_files,
fsspec_files), files of this machine (byte_ranges).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError, MissingExtraError
from scmf.core.redact import is_incomplete, remember
from scmf.data.stores.files.byte_ranges import ByteSource
from scmf.data.stores.files.fsspec_files import FsspecFiles
from scmf.data.stores.files.obstore_files import ObjectFiles
from scmf.data.stores.files.retries import Retries

_OBJECT_SCHEMES = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az", "abfs": "az", "abfss": "az",
    "http": "http", "https": "http",
}  # fmt: skip

_CLIENT = (
    "allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "read_timeout", "root_certificate",
    "timeout",
)  # fmt: skip
"""Options of the connection, the same for every server."""

_NAMES: dict[str, dict[str, str]] = {
    "s3": {
        "endpoint_url": "endpoint", "endpoint": "endpoint", "key": "access_key_id", "secret": "secret_access_key",
        "token": "session_token", "access_key_id": "access_key_id", "secret_access_key": "secret_access_key",
        "session_token": "session_token", "region": "region", "region_name": "region", "anon": "skip_signature",
        "skip_signature": "skip_signature", "requester_pays": "request_payer", "request_payer": "request_payer",
        "virtual_hosted_style_request": "virtual_hosted_style_request",
    },
    "gs": {
        "anon": "skip_signature", "skip_signature": "skip_signature", "service_account": "service_account",
        "service_account_key": "service_account_key", "application_credentials": "application_credentials",
        "token": "service_account", "endpoint_url": "base_url", "base_url": "base_url",
    },
    "az": {
        "anon": "skip_signature", "skip_signature": "skip_signature", "account_name": "account_name",
        "account_key": "account_key", "sas_token": "sas_token", "tenant_id": "tenant_id", "client_id": "client_id",
        "client_secret": "client_secret", "endpoint": "endpoint", "endpoint_url": "endpoint",
    },
    "http": {},
}  # fmt: skip
"""Names of storage options, those of obstore and those of s3fs, gcsfs and adlfs, and what obstore calls them."""


_ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_")
_STORES: dict[str, Any] = {}
"""One client a bucket or host, set of options and environment: thousands of files share connections and credentials."""
_LOCK = threading.Lock()


def is_remote(uri: str) -> bool:
    """Whether ``uri`` is an address (``scheme://``) and no path of this machine; ``file://`` is a path."""
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    return scheme not in ("", "file", "local")


def open_remote(
    uri: str, storage_options: Mapping[str, Any] | None = None, *, retries: Retries | None = None
) -> ByteSource:
    """Open the files below an address; nothing is requested yet.

    ``s3://``, ``gs://``, ``az://`` and ``http(s)://`` go through obstore, every other protocol through fsspec, as does
    an HTTP address with a query (a signed link). Credentials come from the environment as usual (``AWS_*``,
    ``GOOGLE_*``, ``AZURE_*``; ``AWS_ENDPOINT_URL`` for another S3 server) unless ``storage_options`` hold them.

    Parameters
    ----------
    uri
        Address of a folder or of one file (then its name is ``""``).
    storage_options
        For S3 by the names of obstore (``access_key_id``, ``secret_access_key``, ``session_token``, ``endpoint``,
        ``region``, ``skip_signature``) or of s3fs (``key``, ``secret``, ``token``, ``endpoint_url``, ``anon``,
        ``client_kwargs``); for all four ``timeout``, ``connect_timeout``, ``read_timeout``, ``proxy_url``,
        ``headers``; for other protocols what the fsspec file system takes.
    retries
        How often a request is tried again; eight requests within half a minute unless said otherwise.

    Returns
    -------
    ByteSource
        For use from many threads of this process; it does not survive a fork (see `RemoteFiles`).

    Raises
    ------
    ConfigError
        An option or the protocol is unknown.
    MissingExtraError
        obstore or fsspec is not installed.
    """
    remember(storage_options, [uri])
    if is_incomplete(uri):
        raise ConfigError(
            "an address whose credentials were left out of a record",
            wanted="the whole address",
            where=uri,
            fix="give it again, for example --set 'data.files=[\"ADDRESS\"]'",
        )
    parts = urlsplit(uri)
    kind = _OBJECT_SCHEMES.get(parts.scheme)
    if kind is None or (kind == "http" and parts.query):
        return _open_fsspec(uri, dict(storage_options or {}), retries)
    return _open_obstore(uri, kind, dict(storage_options or {}), retries)


def _open_obstore(uri: str, kind: str, options: dict[str, Any], retries: Retries | None) -> ByteSource:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError as error:
        raise MissingExtraError("obstore", "remote", needed_for=f"{kind}:// addresses") from error

    parts = urlsplit(uri)
    config, client = _translate(kind, options, uri)
    endpoint = parts.scheme + ":" if kind == "http" else str(config.get("endpoint") or config.get("base_url") or "")
    if endpoint.startswith("http:"):
        client.setdefault("allow_http", True)
    scheme = {"gs": "gs", "s3": "s3"}.get(kind, parts.scheme)
    base = f"{scheme}://{parts.netloc}"
    here = sorted((key, value) for key, value in os.environ.items() if key.startswith(_ENVIRONMENT))
    key = repr((os.getpid(), base, sorted(config.items()), sorted(client.items()), here))
    try:
        with _LOCK:
            if key not in _STORES:
                _STORES[key] = from_url(
                    base, config=config or None, client_options=client, retry_config={"max_retries": 0}
                )
            store = _STORES[key]
    except (BaseError, ValueError) as error:
        said = str(error).split("\n\nDebug source")[0]
        raise ConfigError(
            f"the address cannot be opened: {said}", where=uri, fix="look at the address and at storage_options"
        ) from error
    prefix = unquote(parts.path) if kind == "http" else parts.path
    return ObjectFiles(uri.rstrip("/"), store=store, prefix=prefix, can_list=kind != "http", retries=retries)


def _translate(kind: str, options: dict[str, Any], uri: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as obstore calls them: those of the store, and those of the connection."""
    names = _NAMES[kind]
    config: dict[str, Any] = {}
    client: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "5min"}
    if kind == "s3":
        options.update(options.pop("client_kwargs", None) or {})
        here = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if here and not {"endpoint", "endpoint_url"} & set(options):
            config["endpoint"] = here
    for name, value in options.items():
        if name in _CLIENT:
            client[name] = value
        elif name == "headers":
            client["default_headers"] = dict(value)
        elif kind == "gs" and name == "token" and value == "anon":
            config["skip_signature"] = True
        elif name in names:
            if value is not None:
                config[names[name]] = value
        else:
            known = sorted({*names, *_CLIENT, "headers", *(["client_kwargs"] if kind == "s3" else [])})
            raise ConfigError(
                f"storage option {name!r}",
                wanted=f"options of {kind}:// addresses: {', '.join(known)}",
                where=f"storage_options for {uri}",
                fix=registry.did_you_mean(name, known),
            )
    return config, client


def _open_fsspec(uri: str, options: dict[str, Any], retries: Retries | None) -> ByteSource:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise MissingExtraError("fsspec", "remote", needed_for=f"{urlsplit(uri).scheme}:// addresses") from error

    try:
        filesystem, path = url_to_fs(uri, **{"use_listings_cache": False, "skip_instance_cache": True, **options})
    except ImportError as error:
        raise DataError(
            f"no library for the protocol {urlsplit(uri).scheme!r}: {error}",
            wanted="the package that fsspec uses for it",
            where=uri,
            fix="install the package named above",
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"the address cannot be opened: {error}",
            where=uri,
            fix="look at the protocol and at storage_options; they go to the fsspec file system as they are",
        ) from error
    return FsspecFiles(uri.rstrip("/"), filesystem=filesystem, path=path, retries=retries)
