"""Cases of the Virtual Cell Challenge 2026: counts of a screen, predicted counts, the six scores (cell_eval2).

Lives here: the comparisons of one case. Lives elsewhere: the scores (scmf.evaluation.perturbation.challenge_*).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from scmf.evaluation.perturbation.challenge_counts import (
    Groups,
    Screen,
    common_response,
    common_response_cells,
    half_seeds,
    halves,
)
from scmf.evaluation.perturbation.challenge_de import Tested
from scmf.evaluation.perturbation.challenge_scale import (
    ERROR,
    ChallengeScores,
    Side,
    baseline,
    mean_of,
    replicate,
    scaled,
    score_screen,
)
from scmf.experiments.metric_parity.case import EXACT, Found
from scmf.results.parity import ParityCase

OURS = {
    "pds_cosine": "pds_cosine",
    ERROR: ERROR,
    "de_wilcoxon_direction_fidelity_yield_raw": "direction_fidelity",
    "de_wilcoxon_direction_reach_raw": "direction_reach",
    "de_wilcoxon_sig_jaccard": "sig_jaccard",
    "de_wilcoxon_lfc_nmae": "lfc_nmae",
    "score": "score",
}
"""Official name to ours."""

_TERMS = {
    "expr_mse_unbiased": "uncapped",
    "expr_mse_unbiased_capped": "numerator",
    "expr_distance_unbiased": "denominator",
}
_RANKS = ("pds_cosine", "direction_fidelity", "direction_reach", "sig_jaccard")
_MASS = "expr_real_mass_ratio"
_ITSELF = "perfect"
"""Name of the prediction that has no file: it is the truth."""


def is_mine(found: Found) -> bool:
    """Whether a case is of this kind."""
    return {"predictions", "control", "baseline"} <= found.expected.keys()


def read_counts(path: Path, expected: Mapping[str, Any]) -> Screen:
    """Raw counts of one file of a case."""
    import anndata as ad

    adata, named = ad.read_h5ad(path), expected.get("target_gene_map")
    targets = None if named is None else {label: () if gene is None else (gene,) for label, gene in named.items()}
    return Screen(
        sp.csr_matrix(adata.X, dtype=np.float64),
        adata.obs["target"].to_numpy().astype(str),
        adata.var_names.to_numpy().astype(str),
        str(expected["control"]),
        targets,
    )


def cases(found: Found) -> Iterator[ParityCase]:
    """Every golden value of a case."""
    assert found.folder is not None
    expected, real = found.expected, read_counts(found.folder / "real.h5ad", found.expected)
    names = {path.stem for path in (found.folder / "pred").glob("*.h5ad")}
    for name in sorted(names - set(expected["predictions"])):
        yield found.failed(f"pred/{name}", "no golden values of this prediction")
    side = Side(real, real, real.names)
    yield from _truth(found, real, side)
    for name in expected["predictions"]:
        path = found.folder / "pred" / f"{name}.h5ad"
        if name not in names and name != _ITSELF:
            yield found.failed(f"pred/{name}", f"no file {path.name}")
            continue
        predicted = real if name == _ITSELF else read_counts(path, expected)
        yield from _prediction(found, name, predicted, real)
    yield from _scale(found, real)


def _truth(found: Found, real: Screen, side: Side) -> Iterator[ParityCase]:
    arrays = found.arrays
    if "real_labels" in arrays:
        groups = Groups.of(real, arrays["real_labels"].tolist())
        yield found.cases("real/profiles", groups.profiles_PG, arrays["real_bulk"])
        yield found.cases("real/jackknife", groups.noise_P, arrays["real_jackknife"])
    if "baseline_profile" in arrays:
        yield found.cases("baseline/profile", common_response(real), arrays["baseline_profile"])
    yield from _tests(found, "de.real", side.names, side.tests)


def _prediction(found: Found, name: str, predicted: Screen, real: Screen) -> Iterator[ParityCase]:
    golden = found.expected["predictions"][name]
    scores, side = score_screen(predicted, real), Side(predicted, real, real.names)
    each = {official: dict(zip(scores.names, scores.each[ours], strict=True)) for official, ours in OURS.items()
            if ours in scores.each}  # fmt: skip
    each |= {key: dict(zip(scores.names, getattr(scores.terms, ours), strict=True)) for key, ours in _TERMS.items()}
    each[_MASS] = _mass(real)
    for metric, values in golden["per_perturbation"].items():
        if metric not in each:
            found.left_out.append(metric)
            continue
        tolerance = EXACT if OURS.get(metric) in _RANKS else 1e-9
        missing = dict.fromkeys(each[metric], None)  # one that is not scored is not listed
        yield found.cases(f"{name}/{metric}", each[metric], missing | values, tolerance=tolerance)
    whole = {**{key: scores.aggregate[ours] for key, ours in OURS.items() if ours in scores.aggregate}, **_means(each)}
    yield found.cases(
        f"{name}/aggregate", whole, {key: value for key, value in golden["aggregate"].items() if key in whole}
    )
    found.left_out += [key for key in golden["aggregate"] if key not in whole]
    arrays, prefix = found.arrays, f"pred.{name}"
    if f"{prefix}.bulk" in arrays:
        groups = Groups.of(predicted, real.names)
        rows = [arrays["real_labels"].tolist().index(label) for label in groups.names]
        yield found.cases(f"{name}/profiles", groups.profiles_PG, arrays[f"{prefix}.bulk"][rows])
        yield found.cases(f"{name}/jackknife", groups.noise_P, arrays[f"{prefix}.jackknife"][rows])
        yield found.cases(f"{name}/budget", scores.terms.budget, float(arrays[f"{prefix}.budget"]))
        yield found.cases(f"{name}/claim", scores.terms.claim, float(arrays[f"{prefix}.claim"]))
    if f"de.{prefix}.p_value" in arrays:
        yield from _tests(found, f"de.{prefix}", side.names, side.tests)
    if name in found.expected["scaled"]:
        base, top = (
            {OURS[key]: value for key, value in found.expected[end].items()} for end in ("baseline", "replicate")
        )
        mine, theirs = scaled(scores.aggregate, base, top), found.expected["scaled"][name]
        yield found.cases(f"{name}/scaled", {key: mine[OURS[key]] for key in theirs}, theirs)


def _tests(found: Found, key: str, names: Any, tests: list[Tested]) -> Iterator[ParityCase]:
    """Tables of tests; p values are those of float64, NaN where a gene is not tested."""
    arrays = found.arrays
    if f"{key}.p_value" not in arrays:
        return
    rows = [list(names).index(name) for name in arrays["perturbations"].tolist()]
    for official, ours in (("log2_fold_change", "fold"), ("p_value", "p"), ("p_adj", "adjusted")):
        mine = np.stack([getattr(tests[row], ours) for row in rows])
        tolerance = EXACT if ours != "fold" else 1e-9
        yield found.cases(f"{key}/{official}", mine, arrays[f"{key}.{official}"], tolerance=tolerance)


def _scale(found: Found, real: Screen) -> Iterator[ParityCase]:
    """Both ends of the scale, and the halves and values of each split."""
    golden, file = found.expected, found.folder / "pred" / "baseline_dispersed.h5ad" if found.folder else None
    yield found.cases("baseline", _official(baseline(real)), golden["baseline"])
    if file is not None and file.is_file():
        drawn, saved = common_response_cells(real), read_counts(file, golden)
        rows = np.concatenate([np.flatnonzero(saved.labels == name) for name in real.names])
        mine, theirs = drawn.counts_NG.toarray(), saved.counts_NG[rows].toarray()
        yield found.cases("baseline/cells", mine, theirs)
    splits, listed = found.json("replicate.json"), found.json("halves.json")
    yield found.cases("replicate/seeds", half_seeds(len(splits["seeds"])), splits["seeds"], tolerance=0.0)
    for split in listed:
        first, second = halves(real.labels, split["seed"])
        for key, rows in (("a", first), ("b", second)):
            same = np.array_equal(np.sort(rows), np.sort(split[key]))
            yield found.cases(f"replicate/halves/{split['seed']}/{key}", float(same), 1.0, tolerance=0.0)
    scores = replicate(real, seeds=splits["seeds"])
    for seed, score in zip(splits["seeds"], scores, strict=True):
        mine = _official(score.aggregate) | _terms(score)
        theirs = {one["metric"]: one["value"] for one in splits["splits"] if one["seed"] == seed}
        yield found.cases(f"replicate/{seed}", mine, {key: value for key, value in theirs.items() if key in mine})
    yield found.cases("replicate", _official(mean_of(scores)), golden["replicate"])


def _official(values: Mapping[str, float]) -> dict[str, float]:
    return {official: values[ours] for official, ours in OURS.items() if ours in values}


def _terms(scores: ChallengeScores) -> dict[str, float]:
    return {key: float(getattr(scores.terms, ours).mean()) for key, ours in _TERMS.items()} | {_MASS: 1.0}


def _means(each: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean(list(each[key].values()))) for key in (*_TERMS, _MASS)}


def _mass(real: Screen) -> dict[str, float]:
    """Sum of the profile without its logarithm over 5e4: 1 where a group has counts."""
    profiles = Groups.of(real, real.names).profiles_PG
    return dict(zip(real.names, (np.expm1(profiles).sum(axis=1) / 5e4).tolist(), strict=True))
