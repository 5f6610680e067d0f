"""Cells that a case names and does not hold: those of a case beside it, or of a public file in the data folder.

Lives here: finding them. Lives elsewhere: the comparisons (calibration, control_split, challenge_2025).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from scmf.core.errors import EvaluationError
from scmf.core.paths import data_dir
from scmf.data.cards.card import Card, list_cards, load_card
from scmf.data.cards.sources import fetch_file
from scmf.experiments.metric_parity.case import Found
from scmf.experiments.metric_parity.challenge_2026 import read_counts

_ROWS = re.compile(r"X of (?P<path>\S+\.h5ad), rows (?P<where>.+?), in the order")
CONTROLS = ("control", "non-targeting", "ctrl")


@dataclass(frozen=True)
class Cells:
    """Log-normalized cells of a screen.

    Parameters
    ----------
    x_NG
        log1p of counts per 10,000, float64 (N, G).
    labels, genes
        Perturbation of each cell, names of the genes.
    control
        Label of the control cells.
    predictions
        Name to predicted cells, the same genes.
    """

    x_NG: sp.csr_matrix
    labels: np.ndarray
    genes: np.ndarray
    control: str
    predictions: Mapping[str, Cells] = field(default_factory=dict)

    def rows(self, label: str) -> np.ndarray:
        """Cells of a perturbation."""
        return np.flatnonzero(self.labels == label)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Mean profile of some cells, float64 (G,)."""
        return np.asarray(self.x_NG[rows].mean(axis=0)).ravel()


def cells_of(found: Found) -> Cells:
    """The cells of a case: those of a challenge case of its name, or the rows that its note or a card names.

    Raises
    ------
    EvaluationError
        Neither is there.
    """
    name = found.name.rpartition("/")[2]
    for path in sorted(found.root.glob(f"*/{name}/real.h5ad")):
        return _of_counts(path)
    for note in (found.expected.get("note", ""), *_notes_beside(found, name)):
        if named := _ROWS.search(note):
            pairs = dict(part.strip().split("=", 1) for part in named["where"].split(","))
            return _of_file(_local(named["path"]), pairs)
    card, kind = _card_of(name)
    keys = dict(card.cells.rows or {}) if card.cells is not None else {}
    pairs = {key: str(values[0]) for key, values in keys.items()}
    if kind and card.perturbation is not None and card.perturbation.covariate_key:
        pairs[card.perturbation.covariate_key] = kind
    key, control = "condition", None
    if card.perturbation is not None:
        key, control = card.perturbation.key, card.perturbation.control
    return _of_file(fetch_file(card, card.files[0]), pairs, key=key, control=control)


def _card_of(name: str) -> tuple[Card, str]:
    """The card that a case is named after, and the rest of the name: the longest that it begins with."""
    cards = sorted(list_cards(kind="cells"), key=lambda card: -len(card.name))
    for card in cards:
        if f"{name}_".startswith(f"{card.name}_"):
            return card, name[len(card.name) + 1 :]
    dataset, _, kind = name.partition("_")
    begun = [card for card in cards if card.name.startswith(f"{dataset}_")]
    return (begun[0] if len(begun) == 1 else load_card(dataset)), kind


def _notes_beside(found: Found, name: str) -> list[str]:
    """Notes of cases of other kinds with the same name."""
    import json

    paths = sorted(found.root.glob(f"*/{name}/expected.json"))
    return [json.loads(path.read_text(encoding="utf-8")).get("note", "") for path in paths]


def _local(path: str) -> Path:
    folder = data_dir()
    if folder is None or not (folder / path).is_file():
        raise EvaluationError(
            f"no {path}", wanted="the file that the case names", where="SCMF_DATA_DIR", fix="set it to a folder with it"
        )
    return folder / path


def _of_file(path: Path, pairs: Mapping[str, str], *, key: str = "condition", control: str | None = None) -> Cells:
    import anndata as ad

    adata = ad.read_h5ad(path)
    kept = np.ones(adata.n_obs, bool)
    for column, value in pairs.items():
        kept &= (adata.obs[column].astype(str) == value).to_numpy()
    adata = adata[kept]
    labels = adata.obs[key].to_numpy().astype(str)
    if control is None or not (labels == control).any():
        control = next((name for name in CONTROLS if (labels == name).any()), "")
    x = sp.csr_matrix(adata.X, dtype=np.float64)
    if (x.data == np.rint(x.data)).all():
        x = log_normalized(x)
    return Cells(x, labels, adata.var_names.to_numpy().astype(str), control)


def _of_counts(path: Path) -> Cells:
    import json

    expected = json.loads((path.parent / "expected.json").read_text(encoding="utf-8"))

    def read(file: Path) -> Cells:
        screen = read_counts(file, expected)
        return Cells(log_normalized(screen.counts_NG), screen.labels, screen.genes, screen.control)

    real = read(path)
    predictions = {file.stem: read(file) for file in sorted(path.parent.glob("pred/*.h5ad"))}
    return Cells(real.x_NG, real.labels, real.genes, real.control, predictions)


def log_normalized(counts_NG: sp.csr_matrix) -> sp.csr_matrix:
    """log1p of counts per 10,000, float64."""
    totals = np.asarray(counts_NG.sum(axis=1)).ravel()
    scaled = sp.csr_matrix(sp.diags(np.divide(1e4, totals, out=np.zeros(len(totals)), where=totals > 0)) @ counts_NG)
    return sp.csr_matrix(scaled.log1p())
