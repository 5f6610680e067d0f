"""What a conversion says at its end, and where it says it: in the attributes of the collection.

Lives here: the report, the root group, recognizing a finished collection. Lives elsewhere: how it is made
(steps), the zarr of it (zarr_writer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scmf.core.errors import DataError
from scmf.core.files import read_object, sha256_json
from scmf.core.provenance import DISTRIBUTION
from scmf.core.shareable import shareable
from scmf.data.convert.rows import Totals
from scmf.data.convert.zarr_writer import write_root
from scmf.data.stores.store import Store


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion made.

    Parameters
    ----------
    out
        Folder of the collection.
    cells, genes, nnz, counts
        Cells, genes, stored values and sum of all counts: the same in the inputs (kept cells and genes) and, read
        back, in the output.
    datasets
        Number of datasets.
    bytes
        Size on disk.
    seconds
        Wall time of the last try.
    filled_columns
        Columns of ``obs`` that some inputs lack, with these inputs; their cells have no value in them.
    inputs
        For each input ``uri``, its name in ``obs["source"]``, the ``matrix``, ``cells``, ``nnz``, ``counts`` and
        ``fingerprint``.
    order_sha256
        Of the place of each cell (see `scmf.data.convert.plan.places`).
    digest
        Of all cells whatever their order, see `scmf.data.convert.rows.Totals`.
    """

    out: str
    cells: int
    genes: int
    nnz: int
    counts: int
    datasets: int
    bytes: int
    seconds: float
    filled_columns: dict[str, list[str]]
    inputs: list[dict[str, Any]]
    order_sha256: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


def describe_input(store: Store, source: str, found: Totals) -> dict[str, Any]:
    """An input in the report."""
    return {
        "uri": store.uri,
        "source": source,
        "matrix": store.counts,
        "fingerprint": store.fingerprint,
        "cells": found.cells,
        "nnz": found.nnz,
        "counts": found.counts,
    }


def publish(out: Path, report: ConvertReport, *, settings: dict[str, Any], sizes: Sequence[Totals]) -> None:
    """Make the folder a collection whose attributes say what it was made of.

    Parameters
    ----------
    out
        Folder with all datasets.
    report
        Stands in the attributes as a whole.
    settings
        Inputs and arguments; a digest of them stands in the attributes, see `finished`.
    sizes
        Totals of each dataset.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        ours = version(DISTRIBUTION)
    except PackageNotFoundError:
        ours = "not installed"
    datasets = [{"name": f"dataset_{i}", "cells": one.cells, "nnz": one.nnz} for i, one in enumerate(sizes)]
    write_root(
        out,
        {
            "version": ours,
            "seed": settings["seed"],
            "shuffle": settings["shuffle"],
            "settings_sha256": sha256_json(settings),
            "datasets": datasets,
            "report": shareable({key: value for key, value in report.to_json().items() if key != "out"}),
        },
    )


def finished(out: Path, settings: dict[str, Any]) -> ConvertReport:
    """The report of the collection in ``out``.

    Raises
    ------
    DataError
        It was made of other inputs or with other arguments, or is none of ours.
    """
    path, fix = out / "zarr.json", "choose another folder, or remove this one"
    head = read_object(path, kind=DataError, wanted="a collection of `scmf data convert`", fix=fix)
    attributes: Any = head.get("attributes")
    attributes = attributes.get("scmf") if isinstance(attributes, dict) else None
    attributes = attributes if isinstance(attributes, dict) else {}
    if attributes.get("settings_sha256") != sha256_json(settings):
        raise DataError(
            "a collection made of other inputs or with other arguments, or by an earlier version of scmf",
            wanted="a new or empty folder",
            where=out,
            fix="choose another folder, or remove this one",
        )
    report = dict(attributes["report"])
    if "dropped_columns" in report:  # of an earlier version; had it dropped any, the settings would differ
        report["filled_columns"] = report.pop("dropped_columns")
    return ConvertReport(out=str(out), **report)
