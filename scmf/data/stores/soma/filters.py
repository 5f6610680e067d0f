"""Value filters of SOMA tables: checked before they run, explained when they find nothing or cannot run.

Lives here: names and values in a filter, the errors. Lives elsewhere: running it (soma).

A filter is what TileDB-SOMA takes: ``cell_type == 'B cell' and tissue_general in ['blood', 'lung']``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError

_CALLS = {"attr", "val"}
_EXAMPLE = "a filter such as: cell_type == 'B cell' and tissue_general in ['blood', 'lung'] and nnz > 200"


def check_filter(value_filter: str, table: Any, *, where: str) -> None:
    """Raise when a filter cannot be read, or names a column that the table lacks.

    Parameters
    ----------
    value_filter
        The filter.
    table
        An open SOMA dataframe.
    where
        How errors call the table.
    """
    try:
        tree = ast.parse(value_filter.strip(), mode="eval")
    except SyntaxError as error:
        raise ConfigError(
            f"the filter {value_filter!r} cannot be read: {error.msg}", wanted=_EXAMPLE, where=where,
            fix="write == for equal, and texts in quotes",
        ) from error  # fmt: skip
    known = list(table.schema.names)
    for name in _columns(tree):
        if name not in known:
            raise DataError(
                f"the filter {value_filter!r} asks for a column {name!r}",
                wanted=f"columns of {where}: {', '.join(known)}",
                where=where,
                fix=registry.did_you_mean(name, known),
            )


def filter_error(error: Exception, value_filter: str, *, where: str) -> ConfigError:
    """The error for a filter that TileDB-SOMA refuses, as for a number compared with a text."""
    said = str(error).split("\n")[0].removeprefix("SOMAError: ")
    if "incompatible function arguments" in said:
        said = "a column is compared with a value of another type"
    return ConfigError(
        f"the filter {value_filter!r} cannot run: {said}",
        wanted=_EXAMPLE,
        where=where,
        fix="compare text columns with texts in quotes, numbers with numbers, and true or false with True or False",
    )


def unknown_values(value_filter: str, table: Any) -> list[str]:
    """Hints for values in the filter that a column of categories never has, for a filter that finds nothing."""
    hints = []
    for node in ast.walk(ast.parse(value_filter.strip(), mode="eval")):
        if not isinstance(node, ast.Compare):
            continue
        columns = [name for side in (node.left, *node.comparators) for name in _columns(side)]
        asked = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        for column in columns:
            values = _categories(table, column)
            for value in asked:
                if values and value not in values and value not in columns:
                    hints.append(f"{column} is never {value!r}, {registry.did_you_mean(value, sorted(values)[:40])}")
    return hints


def _categories(table: Any, column: str) -> list[str]:
    import pyarrow as pa

    if not pa.types.is_dictionary(table.schema.field(column).type):
        return []
    return [str(value) for value in table.get_enumeration_values([column])[column].to_pylist()]


def _columns(tree: ast.AST) -> Iterator[str]:
    """Names of columns in a filter: bare names, and texts within ``attr()``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in _CALLS:
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "attr":
            for one in node.args:
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    yield one.value
