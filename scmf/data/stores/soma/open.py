"""Opening a SOMA experiment: address, options, the members that a store needs.

Lives here: what happens once, before anything is read. Lives elsewhere: the store (store), obs and var (tables).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError, MissingExtraError
from scmf.core.redact import remember

_BUFFER_BYTES = 32 << 20
"""Arrow buffer of each of the three columns of a read; a read that needs more comes in several tables."""
_S3_OPTIONS = {
    "region": "region", "region_name": "region", "key": "aws_access_key_id", "access_key_id": "aws_access_key_id",
    "secret": "aws_secret_access_key", "secret_access_key": "aws_secret_access_key", "token": "aws_session_token",
    "session_token": "aws_session_token", "anon": "no_sign_request", "skip_signature": "no_sign_request",
}  # fmt: skip


def open_experiment(
    uri: Any, *, storage_options: Mapping[str, Any] | None = None, tiledb_config: Mapping[str, Any] | None = None
) -> Any:
    """Open a SOMA experiment for reading; one that is open already is given back.

    Parameters
    ----------
    uri
        Path, address, or an open object.
    storage_options, tiledb_config
        See `tiledb_settings`.

    Raises
    ------
    DataError
        There is no experiment.
    MissingExtraError
        tiledbsoma is not installed.
    """
    try:
        import tiledbsoma
    except ModuleNotFoundError as error:
        raise MissingExtraError("tiledbsoma", "census", needed_for="SOMA experiments") from error
    if not isinstance(uri, str | os.PathLike):
        experiment = uri
    else:
        settings = tiledb_settings(str(uri), storage_options, tiledb_config)
        try:
            experiment = tiledbsoma.open(str(uri), "r", context=tiledbsoma.SOMATileDBContext(tiledb_config=settings))
        except tiledbsoma.SOMAError as error:
            raise DataError(
                f"no SOMA experiment: {brief(error)}",
                wanted="a folder or address written by TileDB-SOMA",
                where=uri,
                fix="look at the address, the region and the credentials; in a copy of the Census an experiment is "
                "census_data/homo_sapiens",
            ) from error
    if not isinstance(experiment, tiledbsoma.Experiment):
        raise DataError(
            f"a SOMA {type(experiment).__name__}",
            wanted="a SOMA Experiment",
            where=getattr(experiment, "uri", uri),
            fix="for a whole Census use scmf.data.stores.soma.census.open_census(uri=...)",
        )
    return experiment


def brief(error: Exception) -> str:
    """The first line of an error of TileDB-SOMA."""
    return str(error).split("\n")[0][:400]


def members(experiment: Any, measurement: str, layer: str, uri: str) -> tuple[Any, Any]:
    """The matrix and the gene table."""
    at = experiment.ms
    for name, key in ((measurement, "measurement"), (layer, "layer")):
        known = sorted(at.keys())
        if name not in known:
            raise DataError(
                f"no {key} {name!r}",
                wanted=f"one of {', '.join(known)}",
                where=uri,
                fix=registry.did_you_mean(name, known),
            )
        if key == "measurement":
            var, at = at[name].var, at[name].X
    return at[layer], var


def tiledb_settings(
    uri: str, storage_options: Mapping[str, Any] | None, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Settings of TileDB for an address: ours, those of the storage options, those given."""
    config: dict[str, Any] = {"soma.init_buffer_bytes": str(_BUFFER_BYTES)}
    secret = {name: value for name, value in (more or {}).items() if re.search("secret|token|key|pass", name)}
    remember({**(storage_options or {}), **secret}, [uri])
    options = dict(storage_options or {})
    options.update(options.pop("client_kwargs", None) or {})
    here = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = options.pop("endpoint_url", None) or options.pop("endpoint", None) or here
    if endpoint and uri.startswith("s3:"):
        scheme, _, host = str(endpoint).rpartition("://")
        config |= {"vfs.s3.endpoint_override": host.rstrip("/"), "vfs.s3.scheme": scheme or "https"}
        config["vfs.s3.use_virtual_addressing"] = "false"
    for name, value in options.items():
        if name not in _S3_OPTIONS:
            known = sorted([*_S3_OPTIONS, "endpoint", "endpoint_url"])
            raise ConfigError(
                f"storage option {name!r}", wanted=f"one of {', '.join(known)}", where=f"storage_options for {uri}",
                fix=f"{registry.did_you_mean(name, known)}, or give TileDB settings with tiledb_config",
            )  # fmt: skip
        config[f"vfs.s3.{_S3_OPTIONS[name]}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return {**config, **{key: str(value) for key, value in (more or {}).items()}}
