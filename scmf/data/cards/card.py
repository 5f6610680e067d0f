"""Dataset cards: which cells or genes, whose, under which license, with which checksums and fixed splits.

Lives here: the keys of ``datasets/<name>.yaml``, reading one by name or by path, listing the shipped ones.
Lives elsewhere: getting the files (sources), reading the cells (load), reading a split (splits), holding
the files against their card (check).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from scmf.core import registry
from scmf.core.config.renamed import current_names
from scmf.core.config.section import Section
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, DataError
from scmf.core.paths import shipped
from scmf.core.yaml import load_yaml
from scmf.data.cards.assembly import Assembly, PerturbationKeys

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A checksum is written in full: 64 lower-case hexadecimal digits."""


# --- where a file can be had ----------------------------------------------------------------------


class MirrorSource(Section):
    """A file on this machine."""

    kind: Literal["mirror"]
    """Kind of source."""
    path: str
    """Relative to ``SCMF_DATA_DIR``, or to the folder of a card that was given by its path."""


class InstalledSource(Section):
    """A file that an installed package brings along."""

    kind: Literal["installed"]
    """Kind of source."""
    package: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """Import name of the package; nothing of it is run."""
    path: str
    """Path inside the package."""


class IndexSource(Section):
    """A member of a wheel or source archive on the package index. Nothing is built or run."""

    kind: Literal["index"]
    """Kind of source."""
    project: str
    """Name of the project on the index."""
    version: str
    """Version of the project."""
    artifact: str
    """File name of the wheel, zip or tar.gz."""
    sha256: Sha256
    """Checksum of the artifact."""
    member: str
    """Path of the file inside the artifact."""


class HubSource(Section):
    """A file in a repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    """Kind of source."""
    repo: str
    """``owner/name``."""
    path: str
    """Path inside the repository."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The commit, in full: the Hub resolves no short hash and a branch moves."""
    repo_type: Literal["model", "dataset"] = "model"
    """Type of repository."""


class UrlSource(Section):
    """A file behind an address."""

    kind: Literal["url"]
    """Kind of source."""
    url: Annotated[str, Field(pattern=r"^https?://")]
    """The address."""


Source = Annotated[MirrorSource | InstalledSource | IndexSource | HubSource | UrlSource, Field(discriminator="kind")]


# --- the card -------------------------------------------------------------------------------------


class CardFile(Section):
    """One file of a card."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """File name, which is also its name in the cache."""
    sha256: Sha256
    """Checksum of the content."""
    size: int | None = Field(None, ge=0)
    """Bytes."""
    role: Literal[
        "cells", "tokens", "medians", "aliases", "symbols", "gencode", "hgnc", "orthologs", "second_orthologs",
        "vectors", "annotations", "network", "regulators",
    ] = "cells"  # fmt: skip
    """What the file is for."""
    sources: tuple[Source, ...]
    """Where it can be had, in the order in which that is tried."""


class Split(Section):
    """A frozen assignment of every cell to ``train``, ``valid`` or ``test``."""

    file: str
    """TSV (gzip) with the columns cell_id and split (``part`` in the shipped ones), relative to the card."""
    sha256: Sha256
    """Checksum of that file."""
    by: str
    """What is kept whole: the ``obs`` column whose values lie in one part only, or ``cell``."""
    description: str
    """How the split was made."""
    parts: dict[Literal["train", "valid", "test"], tuple[str, ...]] = Field(default_factory=dict)
    """Values of the column ``by`` (donors, studies) in each part."""
    unseen: tuple[str, ...] = ()
    """Labels without a training cell, on purpose: what a classifier does with them is part of the task."""


class Leak(Section):
    """What is known about the presence of these cells in a training corpus."""

    corpus: str
    """Name of the corpus."""
    contains: Literal["yes", "part", "no", "unknown"]
    """Whether the corpus holds these cells."""
    reason: str
    """How that is known, or why it is not."""


class Derivation(Section):
    """How raw counts are recovered from a file that does not hold them."""

    method: Literal["log1p_cp10k", "log1p_cp10k_unknown_depth"]
    """The values are ``log(1 + count / depth * 10,000)``; rounded, with a column that names the depth, or in full
    precision without one: then the depth is found, too (recover_depth)."""
    depth_key: str
    """Column of ``obs`` with the total count (depth) of each cell; with an unknown depth, the column it is put into."""
    decimals: int | None = Field(None, ge=1, le=12)
    """Decimals to which the values were rounded; only where the depth is known."""

    @model_validator(mode="after")
    def _decimals_where_rounded(self) -> Derivation:
        if (self.decimals is None) == (self.method == "log1p_cp10k"):
            raise ValueError("`decimals` belongs to log1p_cp10k, which needs it, and to no other method")
        return self


class Authenticity(Section):
    """Evidence that the matrix is real cells and not a gene-wise shuffled copy (see data.authenticity)."""

    joint_detection_ratio: float
    """Median over labels (of a screen: condition and cell type): variance of genes detected per cell / variance if
    genes were independent."""
    joint_detection_ratio_shuffled: float
    """The same after every gene was shuffled within its label: 1 is expected."""
    label_accuracy: float
    """Nearest-centroid accuracy of the labels on held-out cells."""
    label_accuracy_permuted: float
    """The same with permuted labels."""


class Card(Section):
    """A dataset, a gene vocabulary or gene vectors: what it is, where it comes from and what is frozen about it."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_today(cls, raw: Any) -> Any:
        return current_names("card", raw)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    """Name; the file is called ``<name>.yaml``."""
    title: str
    """One line for lists."""
    kind: Literal["cells", "vocabulary", "vectors", "network"]
    """Cells, tables of genes, a vector for each gene, or edges between genes."""
    organism: str
    """Species, for example ``Homo sapiens``."""
    license: str
    """SPDX identifier of the license of the data."""
    citation: str
    """What to cite."""
    doi: str | None = None
    """DOI of the publication."""
    url: str | None = None
    """Page of the data at its publisher."""
    description: str = ""
    """What a user should know, traps included."""
    files: tuple[CardFile, ...] = ()
    """The files; none where the publisher gives no checksum to hold a download against."""
    needs_download: str | None = None
    """What to fetch by hand, and how to use it, where there are no files."""
    n_cells: int | None = Field(None, ge=1)
    """Cells."""
    n_genes: int | None = Field(None, ge=1)
    """Genes of the count matrix, or genes of the vocabulary."""
    counts: str = "auto"
    """Where the raw counts are: ``X``, ``raw.X``, ``layers/<name>``, or ``auto``."""
    derive: Derivation | None = None
    """How raw counts are recovered from the matrix named in ``counts``, where it does not hold them."""
    gene_ids: str = "auto"
    """Where the gene ids are: ``var_names``, a column of ``var``, or ``auto``."""
    gene_symbols: str | None = None
    """Column of ``var`` with gene symbols, or ``var_names``."""
    label_key: str | None = None
    """Column of ``obs`` with cell-type labels."""
    batch_key: str | None = None
    """Column of ``obs`` with the batch."""
    donor_key: str | None = None
    """Column of ``obs`` with the donor."""
    labels: tuple[str, ...] = ()
    """The frozen set of labels."""
    splits: dict[str, Split] = Field(default_factory=dict)
    """Frozen splits by name."""
    part_of: tuple[Leak, ...] | Literal["unknown"] = "unknown"
    """Leak marks: training corpora that hold these cells."""
    authenticity: Authenticity | None = None
    """Evidence that the cells are real."""
    cells: Assembly = Assembly()
    """How the cells of several files are put together."""
    expression: Literal["log1p"] | None = None
    """The matrix named in ``counts`` is log1p of counts per 10,000: perturbation tasks take it as it is. Counts are
    only to be had with ``derive``. Null: the matrix holds counts."""
    perturbation: PerturbationKeys | None = None
    """Where a screen says what was done to a cell."""

    _path: Path | None = PrivateAttr(None)

    @property
    def path(self) -> Path | None:
        """The YAML file the card was read from."""
        return self._path

    @property
    def folder(self) -> Path:
        """Folder that the paths of split files are relative to."""
        return self._path.parent if self._path is not None else shipped("datasets")

    @property
    def is_shipped(self) -> bool:
        """Whether the card comes with the package."""
        return self._path is None or self._path.parent == shipped("datasets").resolve()

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        names = [file.name for file in self.files]
        if not all(file.sources for file in self.files) or not (names or self.needs_download):
            raise ValueError("`files` needs at least one file and each at least one source")
        if self.needs_download and (names or self.kind not in ("vectors", "cells")):
            raise ValueError("`needs_download` is for cells and gene vectors without `files`")
        if len(set(names)) < len(names):
            raise ValueError(f"two files have the same name: {names}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` names a label twice")
        given = {file.name for file in self.files if file.role == "annotations"}
        if lost := {annotation.file for annotation in self.cells.annotations} - given:
            raise ValueError(f"`cells.annotations` names {sorted(lost)[0]!r}, which is no file with that role")
        if self.kind != "cells" and (self.splits or self.labels):
            raise ValueError(f"a card of the kind {self.kind!r} has neither `labels` nor `splits`")
        return self

    def split(self, name: str) -> Split:
        """The split ``name``, or `ConfigError` with a hint."""
        if name not in self.splits:
            known = sorted(self.splits)
            raise ConfigError(
                f"split {name!r}",
                wanted=f"a split of the card {self.name!r}: {', '.join(known) or 'it has none'}",
                where="data.split",
                fix=registry.did_you_mean(name, known) if known else "set data.split: null or give a path to a TSV",
            )
        return self.splits[name]


def load_card(name: str | Path) -> Card:
    """Read a card by name (one of those shipped) or by path.

    Parameters
    ----------
    name
        ``pancreas``, or a path such as ``my/cards/liver.yaml``. A string is a path when it ends in
        ``.yaml`` or ``.yml`` or holds a path separator.

    Returns
    -------
    Card

    Raises
    ------
    ConfigError
        No such card (with a did-you-mean), or a key or value is wrong.
    """
    path = _path_of(name)
    card: Card = validate(Card, load_yaml(path), where=str(path))
    if card.name != path.stem:
        raise ConfigError(
            f"name: {card.name}", wanted=f"the name of the file, {path.stem!r}", where=path, fix="make them equal"
        )
    card._path = path.resolve()
    return card


def list_cards(*, kind: Literal["cells", "vocabulary", "vectors", "network"] | None = None) -> list[Card]:
    """All shipped cards, sorted by name.

    Parameters
    ----------
    kind
        Only cards of this kind; None returns both.
    """
    cards = [load_card(path) for path in sorted(shipped("datasets").glob("*.yaml"))]
    return [card for card in cards if kind is None or card.kind == kind]


def file_of(card: Card, role: str) -> CardFile:
    """The one file of ``card`` with this role, or `DataError`."""
    found = [file for file in card.files if file.role == role]
    if len(found) != 1:
        raise DataError(
            f"{len(found)} files with role {role!r}",
            wanted="exactly one",
            where=f"card {card.name!r}, files",
            fix="choose a card that has it: `scmf data ls`",
        )
    return found[0]


def _path_of(name: str | Path) -> Path:
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name:
        return Path(name).expanduser()
    path = shipped("datasets") / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in shipped("datasets").glob("*.yaml"))
        raise ConfigError(
            f"dataset {name!r}",
            wanted="the name of a card or a path to one",
            where=shipped("datasets"),
            fix=registry.did_you_mean(name, known),
        )
    return path
