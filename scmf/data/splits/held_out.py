"""Which conditions of a perturbation screen are held out by simple rules, and the part of every cell that follows.

Pure functions, seeded. The frozen splits in ``datasets/splits`` are made with them; a split is kept as a list of cells,
never as a seed. Lives elsewhere: how a condition is read (conditions), splits by perturbed genes, that of GEARS
among them (perturbation), the files (datasets/make_suite_splits.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scmf.core.errors import DataError
from scmf.data.splits.assign import SPLITS
from scmf.data.splits.conditions import CONTROLS, genes_of, one_spelling

TRAIN, VALID, TEST = SPLITS


def held_out_doubles(
    conditions: Sequence[str], *, separator: str = "+", seed: int = 1, train_share: float = 0.5
) -> dict[str, str]:
    """All singles and half of the doubles train; the other doubles are split evenly into validation and test.

    Source of the rule: Ahlmann-Eltze et al. 2025 (Norman: 100 singles and 62 doubles, 31 doubles, 31 doubles).
    """
    rng = np.random.default_rng(seed)
    one = one_spelling(conditions, separator=separator, controls=CONTROLS)
    doubles = sorted(name for name in set(one.values()) if _is_combination(name, separator))
    order = rng.permutation(doubles).tolist()
    n_train = int(round(len(order) * train_share))
    n_valid = (len(order) - n_train) // 2
    parts = dict.fromkeys(conditions, TRAIN)
    parts |= dict.fromkeys(order[n_train : n_train + n_valid], VALID)
    parts |= dict.fromkeys(order[n_train + n_valid :], TEST)
    return {name: parts[one[name]] for name in conditions}


def all_doubles(conditions: Sequence[str], *, separator: str = "+") -> dict[str, str]:
    """Every combination is test, every single perturbation trains."""
    return {name: TEST if _is_combination(name, separator) else TRAIN for name in sorted(conditions)}


def _is_combination(condition: str, separator: str) -> bool:
    return len(genes_of(condition, separator=separator, controls=CONTROLS)) > 1


def held_out_conditions(
    conditions: Sequence[str], *, seed: int = 1, valid_share: float = 0.1, test_share: float = 0.25
) -> dict[str, str]:
    """A draw of conditions is test, another validation; at least one condition is test and one trains."""
    one = one_spelling(conditions, separator="+", controls=CONTROLS)
    names = sorted(name for name in set(one.values()) if genes_of(name, separator="+", controls=CONTROLS))
    if len(names) < 2:
        raise DataError(
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
