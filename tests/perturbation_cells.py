"""A small synthetic screen: conditions with known effects, several cell types, control cells."""

import numpy as np
import scipy.sparse as sp

from scmf.evaluation.perturbation.splits import all_doubles, cell_parts
from scmf.evaluation.perturbation.truth import PerturbationTruth

SINGLES, DOUBLES = ("g0", "g1", "g2", "g3"), ("g0+g1", "g1+g2", "g0+g3", "g2+g3")


def screen(*, n_cells=24, n_genes=30, kinds=("k562",), seed=0, conditions=(*SINGLES, *DOUBLES), held=None):
    """Log-normalised cells of each condition and kind; doubles are held out unless ``held`` names kinds."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(1.0, 1.0, n_genes)
    effect = {name: rng.normal(0, 0.6, n_genes) * (rng.random(n_genes) < 0.5) for name in SINGLES}
    blocks, names, types = [], [], []
    for number, kind in enumerate(kinds):
        for condition in ("control", *conditions):
            genes = [] if condition == "control" else condition.split("+")
            rate = base * np.exp(0.1 * number + sum((effect[gene] for gene in genes), np.zeros(n_genes)))
            blocks.append(np.log1p(rng.poisson(rate, (n_cells, n_genes))))
            names += [condition] * n_cells
            types += [kind] * n_cells
    parts = cell_parts(
        names, types, control="control", held_covariates=held,
        condition_parts=None if held else all_doubles([*conditions]),
    )  # fmt: skip
    return PerturbationTruth(
        sp.csr_matrix(np.concatenate(blocks), dtype=np.float32),
        np.array([f"g{i}" for i in range(n_genes)]),
        np.array(names),
        np.array(types),
        parts,
        "control",
        "+",
    )
