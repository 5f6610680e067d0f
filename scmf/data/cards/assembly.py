"""Keys of a card that say how the cells of its files are put together: constants, joins, filters, the perturbation.

Lives here: these sections. Lives elsewhere: the card (card), what is done with them (join_obs).
"""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from scmf.core.config.section import Section


class PerturbationKeys(Section):
    """Where a screen says what was done to a cell."""

    key: str
    """Column of ``obs`` with the condition of each cell."""
    control: str
    """Value of that column for cells to which nothing was done."""
    separator: str | None = None
    """Sign between the genes of a combination, such as ``+``; null where there are none."""
    covariate_key: str | None = None
    """Column of ``obs`` with the cell type or line in which the perturbation happened."""


class Annotation(Section):
    """Columns or vectors of cells that lie in a file of their own, and how its rows find their cells."""

    file: str
    """Name of a file of the card with the role ``annotations``."""
    by: str = "cell_id"
    """``cell_id``: rows are matched by id; ``order``: the n-th row is the n-th cell."""
    strip: str | None = None
    """Regular expression that is removed from both ids before they are compared, such as a suffix of the sample."""
    within: dict[str, str] = {}
    """Column of the cells -> column of the file, which must agree for two ids to be the same cell."""
    agree: dict[str, str] = {}
    """Column of the cells -> column of the file that must hold the same values: a check that rows belong together."""
    columns: dict[str, str] = {}
    """New column of ``obs`` -> column of the file."""
    obsm: dict[str, str] = {}
    """New key of ``obsm`` -> key in the file."""
    missing: str = "error"
    """Cells without a row: ``error``, or ``drop`` to leave them out."""

    @field_validator("by")
    @classmethod
    def _by(cls, value: str) -> str:
        if value not in ("cell_id", "order"):
            raise ValueError("must be cell_id or order")
        return value

    @field_validator("missing")
    @classmethod
    def _missing(cls, value: str) -> str:
        if value not in ("error", "drop"):
            raise ValueError("must be error or drop")
        return value

    @field_validator("strip")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from error
        return value


class Assembly(Section):
    """How the cells of the files become the cells of the card, in this order."""

    constant: dict[str, dict[str, str]] = {}
    """File -> new column of ``obs`` -> its value for every cell of the file."""
    rename: dict[str, dict[str, str]] = {}
    """File -> new column of ``obs`` -> column of the file, where files call the same thing by other names."""
    annotations: tuple[Annotation, ...] = ()
    """Files with columns or vectors for the cells."""
    values: dict[str, dict[str, str]] = {}
    """Column -> value as it stands -> value as it is wanted; a frozen harmonisation."""
    rows: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> values of the cells that are kept."""

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return self != Assembly()
