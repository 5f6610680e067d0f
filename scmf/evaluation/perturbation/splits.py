"""Which conditions of a perturbation screen are held out: pure functions from condition names to parts, seeded.

The frozen splits in ``datasets/splits`` are made with them; a split is kept as a list of cells, never as a seed. Lives
elsewhere: what a split asks of a model (perturbation_truth), the files (datasets/make_perturbation_splits.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.splits import conditions as conditions_

TRAIN, VALID, TEST = "train", "valid", "test"


def genes_of(condition: str, separator: str | None, control: str | None = None) -> tuple[str, ...]:
    """The perturbed genes of a condition, sorted: two for a combination ``A+B``, none for a control.

    A condition is a set of genes: see `scmf.data.splits.conditions`, which reads it.
    """
    return conditions_.genes_of(
        condition, separator=separator, controls=conditions_.CONTROLS if control is None else (control,)
    )


def gears_simulation(
    conditions: Sequence[str],
    *,
    separator: str | None = "+",
    seed: int = 1,
    train_share: float = 0.75,
    valid_share: float = 0.9,
) -> dict[str, str]:
    """Condition to part, as the ``simulation`` split of GEARS draws them.

    Three quarters of the genes are training genes. Single perturbations of the others and combinations with one or both
    of the others are test (unseen single, seen 1, seen 0); of the combinations of two training genes a quarter is test
    (seen 2). Validation is drawn from what is left in the same way, with nine tenths.

    Parameters
    ----------
    conditions
        Names; a control trains.
    separator
        Sign between the genes of a combination.
    seed
        Of numpy's generator; the draws are ours, not those of GEARS, whose seed gives another split in every copy of
        it.

    Notes
    -----
    Source of the rules: snap-stanford/GEARS f374e43, `gears/data_utils.py`.
    """
    rng = np.random.default_rng(seed)
    one = _one_spelling(conditions, separator)
    train, test = _simulate(sorted(set(one.values())), separator, train_share, rng)
    train, valid = _simulate(train, separator, valid_share, rng)
    parts = {**dict.fromkeys(train, TRAIN), **dict.fromkeys(valid, VALID), **dict.fromkeys(test, TEST)}
    return {name: parts[kept] for name, kept in one.items()}


def _one_spelling(conditions: Sequence[str], separator: str | None) -> dict[str, str]:
    """Condition -> the first spelling of it: ``A+B`` and ``B+A``, ``A+ctrl`` and ``A`` are one."""
    return conditions_.one_spelling(conditions, separator=separator, controls=conditions_.CONTROLS)


def _simulate(
    conditions: list[str], separator: str | None, share: float, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    genes = sorted({gene for condition in conditions for gene in genes_of(condition, separator)})
    seen = set(rng.permutation(genes)[: int(round(len(genes) * share))].tolist())
    kept: list[str] = []
    held: list[str] = []
    both: list[str] = []
    for condition in conditions:
        mine = genes_of(condition, separator)
        if set(mine) <= seen:
            (both if len(mine) > 1 else kept).append(condition)
        else:
            held.append(condition)
    chosen = set(rng.permutation(both)[: int(round(len(both) * share))].tolist()) if both else set()
    return kept + [name for name in both if name in chosen], held + [name for name in both if name not in chosen]


def held_out_doubles(
    conditions: Sequence[str], *, separator: str = "+", seed: int = 1, train_share: float = 0.5
) -> dict[str, str]:
    """All singles and half of the doubles train; the other doubles are split evenly into validation and test.

    Source of the rule: Ahlmann-Eltze et al. 2025 (Norman: 100 singles and 62 doubles, 31 doubles, 31 doubles).
    """
    rng = np.random.default_rng(seed)
    one = _one_spelling(conditions, separator)
    doubles = [name for name in sorted(set(one.values())) if len(genes_of(name, separator)) > 1]
    order = rng.permutation(doubles).tolist()
    n_train = int(round(len(order) * train_share))
    n_valid = (len(order) - n_train) // 2
    parts = dict.fromkeys(conditions, TRAIN)
    parts |= dict.fromkeys(order[n_train : n_train + n_valid], VALID)
    parts |= dict.fromkeys(order[n_train + n_valid :], TEST)
    return {name: parts[one[name]] for name in conditions}


def all_doubles(conditions: Sequence[str], *, separator: str = "+") -> dict[str, str]:
    """Every combination is test, every single perturbation trains."""
    return {name: TEST if len(genes_of(name, separator)) > 1 else TRAIN for name in sorted(conditions)}


def held_out_conditions(
    conditions: Sequence[str], *, seed: int = 1, valid_share: float = 0.1, test_share: float = 0.25
) -> dict[str, str]:
    """A draw of conditions is test, another validation; at least one condition is test and one trains."""
    one = _one_spelling(conditions, "+")
    names = sorted(name for name in set(one.values()) if genes_of(name, "+"))
    if len(names) < 2:
        raise EvaluationError(
            f"{len(names)} perturbations",
            wanted="at least two",
            where="held_out_conditions",
            fix="use another data set",
        )
    order = np.random.default_rng(seed).permutation(names).tolist()
    n_test = min(max(1, int(round(len(order) * test_share))), len(order) - 1)
    n_valid = min(int(round(len(order) * valid_share)), len(order) - 1 - n_test)
    parts = dict.fromkeys(order[:n_test], TEST) | dict.fromkeys(order[n_test : n_test + n_valid], VALID)
    return {name: parts.get(kept, TRAIN) for name, kept in one.items()}


def cell_parts(
    conditions: Sequence[str],
    covariates: Sequence[str],
    *,
    control: str,
    condition_parts: dict[str, str] | None = None,
    held_covariates: dict[str, str] | None = None,
) -> np.ndarray:
    """Part of every cell, str (N,). Control cells always train: a screen always has them.

    Parameters
    ----------
    conditions, covariates
        Condition and cell type (or line) of each cell.
    control
        Name of the control condition.
    condition_parts
        Condition to part, from one of the functions above; all train when None.
    held_covariates
        Cell type to part: the perturbed cells of this type, whatever their condition.
    """
    parts = []
    for condition, covariate in zip(conditions, covariates, strict=True):
        part = (condition_parts or {}).get(condition, TRAIN)
        part = (held_covariates or {}).get(covariate, part)
        parts.append(TRAIN if condition == control else part)
    return np.array(parts)
