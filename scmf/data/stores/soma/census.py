"""The CELLxGENE Census: a release and an organism become a store of cells.

Lives here: releases, organisms, leaving out duplicated cells. Lives elsewhere: reading cells (store), the
language of filters (filters).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scmf.core import registry
from scmf.core.errors import DataError, MissingExtraError
from scmf.data.stores.soma.open import brief, tiledb_settings
from scmf.data.stores.soma.store import SomaStore

PRIMARY = "is_primary_data == True"


def open_census(
    *,
    organism: str = "homo_sapiens",
    value_filter: str | None = None,
    version: str = "stable",
    uri: str | None = None,
    gene_filter: str | None = None,
    primary_only: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    tiledb_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> SomaStore:
    """Open cells of the Census; their ids, lengths and genes are read, counts are streamed later.

    Parameters
    ----------
    organism
        ``homo_sapiens``, ``Homo sapiens``, ``mus_musculus``... as Census takes it.
    value_filter
        Which cells, over the columns of ``obs``: ``tissue_general == 'blood' and assay == "10x 3' v3"``.
    version
        A release by its date (``2025-01-30``), ``stable`` or ``latest``. The last two move: the date they stand for
        is resolved once, and is the ``version`` of the store that a run records.
    uri
        Path or address of a copy of the Census; no release is looked up then. A ``version`` other than ``stable``
        must be the build date in the copy.
    gene_filter
        Which genes, over the columns of ``var``: ``feature_type == 'protein_coding'``.
    primary_only
        Leave out cells with ``is_primary_data`` false. Census holds a cell once for every dataset it was published in,
        and marks one of them: without this the same cell is trained on several times, and may be in two splits.
    storage_options, tiledb_config
        For a copy on S3, see `scmf.data.stores.soma.store.SomaStore.open`.
    options
        ``measurement``, ``layer``, ``gene_ids``, ``cell_ids``, ``nnz_column`` and ``retries`` of
        `scmf.data.stores.soma.store.SomaStore.open`.

    Returns
    -------
    SomaStore
        Its ``version`` is the build date of the Census.

    Raises
    ------
    DataError
        An unknown release, organism or column; a filter that leaves no cells; no network.
    MissingExtraError
        cellxgene-census or tiledbsoma is not installed.
    """
    census = (
        _open_copy(uri, storage_options, tiledb_config) if uri is not None else _open_release(version, tiledb_config)
    )
    try:
        build = _build_date(census)
        if uri is not None and version not in ("stable", build):
            raise DataError(
                f"the copy is of the Census of {build or 'an unknown date'}",
                wanted=f"version {version}",
                where=uri,
                fix="leave version out, or give the address of the other copy",
            )
        experiment = _experiment(census, organism, where=str(uri or f"Census {build}"))
        return SomaStore.open(
            experiment,
            value_filter=_with_primary(value_filter) if primary_only else value_filter,
            gene_filter=gene_filter,
            version=build or version,
            closing=census.close,
            **options,
        )
    except BaseException:
        census.close()
        raise


def _with_primary(value_filter: str | None) -> str:
    return f"({value_filter}) and {PRIMARY}" if value_filter and value_filter.strip() else PRIMARY


def _open_copy(uri: str, storage_options: Mapping[str, Any] | None, tiledb_config: Mapping[str, Any] | None) -> Any:
    try:
        import tiledbsoma
    except ModuleNotFoundError as error:
        raise MissingExtraError("tiledbsoma", "census", needed_for="CELLxGENE Census") from error
    settings = tiledb_settings(uri, storage_options, tiledb_config)
    try:
        census = tiledbsoma.open(uri, "r", context=tiledbsoma.SOMATileDBContext(tiledb_config=settings))
    except tiledbsoma.SOMAError as error:
        raise DataError(
            f"no Census: {brief(error)}",
            wanted="the folder that holds census_info and census_data",
            where=uri,
            fix="look at the address, the region and the credentials",
        ) from error
    if not {"census_info", "census_data"} <= set(getattr(census, "keys", list)()):
        census.close()
        raise DataError(
            f"a SOMA {type(census).__name__} without census_info and census_data",
            wanted="the folder that holds both",
            where=uri,
            fix="for one experiment use SomaStore.open",
        )
    return census


def _open_release(version: str, tiledb_config: Mapping[str, Any] | None) -> Any:
    """A public release, by the date that ``version`` stands for."""
    try:
        import cellxgene_census
    except ModuleNotFoundError as error:
        raise MissingExtraError("cellxgene-census", "census", needed_for="CELLxGENE Census") from error
    import requests
    import tiledbsoma

    try:
        releases = cellxgene_census.get_census_version_directory(retracted=None)
        found = releases.get(version)
        if found is None:
            known = [name for name, one in releases.items() if not one.get("flags", {}).get("retracted")]
            raise DataError(
                f"no release {version!r} of the Census",
                wanted=f"one of {', '.join(known)}",
                where="census_version",
                fix=registry.did_you_mean(version, known),
            )
        if found.get("flags", {}).get("retracted"):
            why: Mapping[str, Any] = found.get("retraction") or {}
            raise DataError(
                f"the release {version!r} of the Census was retracted: {why.get('reason') or 'no reason is given'}",
                wanted="a release that stands",
                where="census_version",
                fix=f"take {why.get('replaced_by') or 'stable'}",
            )
        settings = tiledb_settings("", None, tiledb_config)
        return cellxgene_census.open_soma(
            census_version=found["release_build"],
            context=cellxgene_census.get_default_soma_context(tiledb_config=settings),
        )
    except (requests.RequestException, tiledbsoma.SOMAError) as error:
        raise DataError(
            f"the Census cannot be reached: {brief(error)}",
            wanted="the release directory and the public bucket",
            where=f"Census {version}",
            fix="look at the network; behind a firewall give the address of a copy with uri",
        ) from error


def _build_date(census: Any) -> str | None:
    """The build date, from the table of the Census itself."""
    summary = census["census_info"]["summary"].read().concat().to_pandas()
    values = dict(zip(summary["label"].astype(str), summary["value"].astype(str), strict=True))
    return values.get("census_build_date")


def _experiment(census: Any, organism: str, *, where: str) -> Any:
    known = sorted(census["census_data"].keys())
    name = re.sub(r"\s+", "_", organism.strip()).lower()
    if name not in known:
        raise DataError(
            f"no organism {organism!r} in the Census",
            wanted=f"one of {', '.join(known)}",
            where=where,
            fix=registry.did_you_mean(name, known),
        )
    return census["census_data"][name]
