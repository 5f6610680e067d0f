"""How a perturbation condition is written and what it is: a set of genes, empty for a control.

``A+B`` and ``B+A``, ``A+ctrl``, ``ctrl+A`` and ``A`` are one condition in two or three spellings. Names of controls
are recognized before the separator is applied, so that ``non_targeting`` stays one name where ``_`` is the separator.

Lives here: reading a condition, spellings of one condition, which names are controls. Lives elsewhere: which condition
goes into which part (perturbation, held_out).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from scmf.core.errors import ConfigError, DataError
from scmf.data.splits.assign import SPLITS

CONTROLS = ("control", "ctrl", "non-targeting", "non_targeting", "nontargeting")
"""Names of a control that are known without being told."""


def genes_of(condition: str, *, separator: str | None, controls: Sequence[str]) -> tuple[str, ...]:
    """What was perturbed, sorted, without control; empty for a control.

    Parameters
    ----------
    condition
        As the column has it.
    separator
        Sign between the names of a combination; None or empty: there are none.
    controls
        Names of controls; they may hold the separator.
    """
    known = {name.strip() for name in controls}
    if (whole := condition.strip()) in known:
        return ()
    pieces = whole.split(separator) if separator else [whole]
    longest = max((name.count(separator) + 1 for name in known), default=1) if separator else 1
    genes, at = set(), 0
    while at < len(pieces):
        for stop in range(min(at + longest, len(pieces)), at, -1):
            if (separator or "").join(pieces[at:stop]).strip() in known:
                at = stop
                break
        else:
            genes.add(pieces[at].strip())
            at += 1
    return tuple(sorted(genes - {""}))


def one_spelling(names: Iterable[str], *, separator: str | None, controls: Sequence[str]) -> dict[str, str]:
    """Name -> the first name, in sorted order, of the same set of genes."""
    first: dict[tuple[str, ...], str] = {}
    return {
        name: first.setdefault(genes_of(name, separator=separator, controls=controls), name) for name in sorted(names)
    }


def one_code(
    codes: np.ndarray, names: Sequence[str], *, separator: str | None, controls: Sequence[str]
) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """Codes and sorted names of conditions with one code for all spellings, and name -> the spelling kept."""
    kept = one_spelling(names, separator=separator, controls=controls)
    left = sorted(set(kept.values()))
    place = {name: i for i, name in enumerate(left)}
    return np.array([place[kept[name]] for name in names], codes.dtype)[codes], left, kept


def controls_among(
    names: Sequence[str], control: str | Sequence[str] | None, *, separator: str | None, where: str
) -> tuple[str, ...]:
    """Names of controls to go by: those given, each of which must be there, or the usual ones.

    Raises
    ------
    DataError
        No cell has a control that was named.
    """
    if control is None:
        return CONTROLS
    given = tuple(name.strip() for name in ([control] if isinstance(control, str) else control))
    for name in given:
        others = [other for other in given if other != name]
        if not any(
            genes_of(one, separator=separator, controls=others) != genes_of(one, separator=separator, controls=given)
            or one.strip() == name
            for one in names
        ):
            shown = ", ".join(repr(one) for one in sorted(names, key=lambda one: _unlike(one, name))[:6])
            raise DataError(
                f"no cell has the control {name!r}",
                wanted=f"one of {len(names):,} conditions, such as {shown}",
                where=where,
                fix="name the control as the column has it",
            )
    return given


def place_spellings(
    placed: Mapping[str, int], written: Sequence[str], separator: str, controls: Sequence[str]
) -> dict[str, int]:
    """What is held out, by the one spelling of each condition that is worked with."""
    kept = one_spelling(written, separator=separator, controls=controls)
    of_genes = {genes_of(name, separator=separator, controls=controls): name for name in kept.values()}
    found: dict[str, int] = {}
    for name, part in placed.items():
        genes = genes_of(name, separator=separator, controls=controls)
        if not genes and part and () in of_genes:
            raise ConfigError(
                f"the control {name!r} in {SPLITS[part]}",
                wanted="controls in train",
                where="hold_out",
                fix="leave it out",
            )
        one = of_genes.get(genes, name) if genes else name
        if found.setdefault(one, part) != part:
            raise ConfigError(f"{name!r} in two parts", wanted="one part", where="hold_out", fix="choose one")
    return found


def describe_conditions(written: Sequence[str], separator: str, controls: Sequence[str]) -> str:
    """What a description says about controls and spellings, from the conditions that are there."""
    there = [name for name in written if not genes_of(name, separator=separator, controls=controls)]
    several = len(set(one_spelling(written, separator=separator, controls=controls).values())) - bool(there)
    several = len(written) - len(there) - several
    said = f"; controls ({', '.join(there)}) are in train" if there else "; no condition is a control"
    return said + (f"; {several} other spellings of a condition lie with it" if several else "")


def _unlike(name: str, wanted: str) -> tuple[bool, str]:
    """Sorts names that differ from ``wanted`` only in signs and case first."""

    def letters(text: str) -> str:
        return "".join(sign for sign in text.lower() if sign.isalnum())

    return letters(name) != letters(wanted), name
