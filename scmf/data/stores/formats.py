"""Files that are no AnnData, told by their content: what they are, and the command that makes an .h5ad of them.

Lives here: `foreign`, asked by every reader of cells before it says that a file is damaged. Lives elsewhere: reading
AnnData (adata_files, h5ad_store, zarr_store).
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import h5py

from scmf.core.errors import DataError
from scmf.core.hdf5 import open_hdf5

_HEAD = 512
"""Bytes that are looked at."""

_GZIP = b"\x1f\x8b"

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "a file packed by bzip2", "bunzip2 -k {file}"),
    (b"\xfd7zXZ\0", "a file packed by xz", "unxz -k {file}"),
    (b"\x28\xb5\x2f\xfd", "a file packed by zstd", "unzstd {file}"),
    (b"PK\x03\x04", "a zip archive", "unzip {file}; of an .xlsx or .npz make an .h5ad with anndata"),
    (b"PAR1", "a Parquet table", "{py}pandas as p, anndata; anndata.AnnData(p.read_parquet('{file}')){write}"),
    (b"ARROW1", "an Arrow table", "{py}pandas as p, anndata; anndata.AnnData(p.read_feather('{file}')){write}"),
    (b"%PDF", "a PDF", "download the file with the cells"),
    (b"\x80\x04", "a pickle", "load it with the program that wrote it, and write_h5ad there"),
    (b"\x80\x05", "a pickle", "load it with the program that wrote it, and write_h5ad there"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull"),
    (
        b"%%MatrixMarket",
        "a MatrixMarket matrix",
        "pip install scanpy; {py}scanpy; scanpy.read_10x_mtx('{folder}'){write}",
    ),
    (b"<!doctype html", "a web page, not a file of cells", "download it again; the address may ask for a login"),
    (b"<html", "a web page, not a file of cells", "download it again; the address may ask for a login"),
    (b"<?xml", "an XML document, as a server sends in place of a file that it refuses", "look into it, download again"),
)
"""First bytes -> what such a file is, and what to do."""

_PANDAS = "{py}pandas as p, anndata; "

_R = (b"X\n\0\0", b"A\n2\n", b"A\n3\n", b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n")

_ALL_FROM_R = (
    "in R: library(zellkonverter); writeH5AD(readRDS('{file}'), '{stem}.h5ad'); "
    "a Seurat object goes through as.SingleCellExperiment first"
)


def foreign(path: Path | str) -> DataError | None:
    """What a file or folder is that is no AnnData; None where it may be one, or where nothing is known of it.

    Parameters
    ----------
    path
        A file or folder of this machine.

    Returns
    -------
    DataError
        To be raised: what was found, and the command that makes an .h5ad of it.
    """
    path = Path(path)
    try:
        known = _of_folder(path) if path.is_dir() else _of_file(path)
    except (OSError, EOFError, zlib.error, RuntimeError, KeyError, ValueError, TypeError):
        return None
    if known is None:
        return None
    what, fix = known
    stem = path.with_name(path.name.partition(".")[0] or "cells")
    words = {
        "file": path, "folder": path if path.is_dir() else path.parent, "stem": stem,
        "py": 'python -c "import ', "write": f".write_h5ad('{stem}.h5ad')\"",
    }  # fmt: skip
    for word, text in words.items():
        fix = fix.replace(f"{{{word}}}", str(text))
    return DataError(what, wanted="an .h5ad file or a zarr group of AnnData", where=path, fix=fix)


def _of_folder(path: Path) -> tuple[str, str] | None:
    names = {entry.name for entry in path.iterdir()}
    if {"matrix.mtx", "matrix.mtx.gz"} & names:
        return (
            "a folder of 10x Genomics with a matrix.mtx",
            "pip install scanpy; {py}scanpy; scanpy.read_10x_mtx('{folder}'){write}",
        )
    if any(name.startswith("__tiledb") or name in ("__meta", "__schema", "__group") for name in names):
        return "a TileDB-SOMA experiment", "name it in the YAML file: data.census.uri: {folder}"
    if "state.json" in names and "dataset_info.json" in names:
        return "a folder of tokenized cells", "name it in the YAML file: data.tokens: {folder}"
    if {"zarr.json", ".zgroup"} & names and "obs" not in names:
        for folder, what in (("mod", "MuData"), ("tables", "SpatialData")):
            inside = sorted(one.name for one in (path / folder).glob("*")) if folder in names else []
            if inside := [name for name in inside if (path / folder / name / "obs").is_dir()]:
                chosen = "rna" if "rna" in inside else inside[0]
                return (
                    f"a zarr group of {what} with {', '.join(inside)}",
                    f"give one of them: {{file}}/{folder}/{chosen}",
                )
    stores = any(name.endswith((".h5ad", ".zarr")) for name in names)
    if not stores and ("run.json" in names or "config.json" in names):
        return "the folder of a model, not of cells", "give the cells here, and the folder as the model"
    return None


def _of_file(path: Path) -> tuple[str, str] | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file", "copy or download it again"
    if h5py.is_hdf5(path):
        with open_hdf5(path) as tree:
            return _of_hdf5(tree)
    if head.startswith(_GZIP):
        return _of_gzip(path)
    for magic, what, fix in _MAGIC:
        if head.lower().startswith(magic.lower()):
            return what, fix
    if head.startswith(_R):
        return "an object of R", _ALL_FROM_R
    return _of_text(head)


def _of_gzip(path: Path) -> tuple[str, str]:
    with gzip.open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x89HDF"):
        return "an .h5ad file packed by gzip", "gunzip -k {file}"
    if head.startswith(_R):
        return "an object of R", _ALL_FROM_R
    if head.startswith(b"%%MatrixMarket"):
        return "a MatrixMarket matrix", "pip install scanpy; {py}scanpy; scanpy.read_10x_mtx('{folder}'){write}"
    if (text := _of_text(head)) is not None:
        return text
    return "a file packed by gzip", "gunzip -k {file}, or tar -xzf {file}"


def _of_text(head: bytes) -> tuple[str, str] | None:
    """A table: text of which a line has tabs or commas."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not only cut through a letter
            return None
        text = head[: error.start].decode("utf-8")
    if any(ord(letter) < 32 and letter not in "\t\r\n" for letter in text):
        return None
    line = text.partition("\n")[0]
    for mark, name, sep in (("\t", "tabs", "sep='\\t', "), (",", "commas", ""), (";", "semicolons", "sep=';', ")):
        if mark in line:
            table = f"p.read_csv('{{file}}', {sep}index_col=0)"
            rows = "(a row a cell; add .T to the table where it is a gene)"
            return f"a table of text, separated by {name}", f"{_PANDAS}anndata.AnnData({table}){{write}} {rows}"
    return None


def _of_hdf5(tree: h5py.File) -> tuple[str, str] | None:
    names = set(tree)
    encoding = tree.attrs.get("encoding-type", "")
    encoding = encoding.decode() if isinstance(encoding, bytes) else str(encoding)
    if "mod" in names:
        inside = sorted(tree["mod"])
        chosen = next((name for name in inside if name in ("rna", "gex", "RNA")), inside[0] if inside else "rna")
        what = f"a MuData file with {', '.join(inside) or 'no modality'}"
        return what, f"pip install mudata; {{py}}mudata; mudata.read_h5mu('{{file}}').mod['{chosen}']{{write}}"
    if "obs" in names and "var" in names:
        return None
    if "matrix" in names and isinstance(tree["matrix"], h5py.Group) and "barcodes" in tree["matrix"]:
        return (
            "a matrix of 10x Genomics (Cell Ranger, CellBender)",
            "pip install scanpy; {py}scanpy; scanpy.read_10x_h5('{file}'){write}",
        )
    if any(isinstance(tree[name], h5py.Group) and {"barcodes", "indptr"} <= set(tree[name]) for name in names):
        return (
            "a matrix of 10x Genomics (Cell Ranger 2)",
            "pip install scanpy; {py}scanpy; scanpy.read_10x_h5('{file}'){write}",
        )
    if {"matrix", "row_attrs", "col_attrs"} <= names:
        return "a loom file", "pip install loompy; {py}anndata; anndata.io.read_loom('{file}', sparse=True){write}"
    if {"assays", "cell.names"} <= names:
        return "a file of SeuratDisk (h5Seurat)", "in R: SeuratDisk::Convert('{file}', dest = 'h5ad')"
    if {"barcode_idx", "umi"} <= names:
        return "the molecules of Cell Ranger, not a matrix", "give filtered_feature_bc_matrix.h5 of the same run"
    held = ", ".join(sorted(names)[:6]) or "nothing"
    if encoding and encoding not in ("anndata", "AnnData"):
        return f"an HDF5 file of the kind {encoding!r} with {held}", "give a file that anndata wrote"
    return f"an HDF5 file of {held}", "give a file that anndata wrote"
