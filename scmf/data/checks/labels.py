"""Whether the labels of a split can be learnt from its training cells and scored on its test cells.

Lives here: the findings of `scmf check --split` with a column of labels. Lives elsewhere: the same before a training
(scmf.evaluation.callbacks), the labels of loaded cells (scmf.data.loading.labels).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from scmf.data.splits.findings import CheckReport, Level
from scmf.data.stores.missing import known_text


def check_labels(report: CheckReport, parts: np.ndarray, column: pd.Series) -> None:
    """Add what an evaluation of these labels would refuse: labels of test cells that no training cell has.

    Parameters
    ----------
    report
        Gets the findings.
    parts
        ``train``, ``valid`` or ``test`` of each cell, str (N,).
    column
        Labels of the cells (N,).
    """
    labels = known_text(column)
    trained = np.unique(labels[(parts == "train") & (labels != "")])
    what = f"labels {column.name!r}"
    if len(trained) < 2:
        found = f"the training cells have {len(trained)} label(s)"
        report.add("error", what, found, do="an evaluation needs two or more: choose another split or column")
        return
    levels: dict[str, Level] = {"valid": "warning", "test": "error"}
    for part, level in levels.items():
        mine = labels[(parts == part) & (labels != "")]
        if not len(mine):
            words = "nothing is probed during training" if part == "valid" else "an evaluation has nothing to score"
            report.add(level, what, f"no cell of {part} has a label", do=words)
            continue
        names, sizes = np.unique(mine[~np.isin(mine, trained)], return_counts=True)
        if len(names):
            said = ", ".join(
                f"{name!r} ({n:,} {part} cells)" for name, n in zip(names.tolist(), sizes.tolist(), strict=True)
            )
            do = "choose another split, or merge or drop those labels"
            report.add(level, what, f"no training cell has the label {said}", do=do)
        else:
            report.add("ok", what, f"each of the {len(np.unique(mine))} labels of {part} is among the training cells")
