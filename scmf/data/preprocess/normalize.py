"""Normalization on the fly: steps that are fitted once on the training cells and then applied to any block.

Lives here: the `Pipeline` of steps and its JSON. Lives elsewhere: the steps (steps, size_factors), which genes to
select (hvg), cells to leave out (quality).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError
from scmf.data.preprocess.size_factors import SizeFactors
from scmf.data.preprocess.steps import Blocks, LibrarySize, Log1p, SelectGenes
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.fractions import refuse_damage
from scmf.data.stores.store import CountBlock


class Pipeline:
    """Steps applied one after the other.

    Parameters
    ----------
    steps
        Such as ``[LibrarySize(10_000), Log1p()]``.
    fitted_on
        Said by `fit`: fingerprint of the corpus and number of cells.
    """

    def __init__(self, steps: Sequence[Any], *, fitted_on: Mapping[str, Any] | None = None) -> None:
        self.steps = tuple(steps)
        self.fitted_on = dict(fitted_on) if fitted_on else None

    @property
    def is_fitted(self) -> bool:
        """Whether every step knows all it needs."""
        return all(step.is_fitted for step in self.steps)

    def fit(self, corpus: Corpus, *, keep: np.ndarray | None, threads: int = 2) -> Pipeline:
        """Find what the steps need, from the training cells.

        Parameters
        ----------
        corpus
            Raw counts.
        keep
            Boolean (n_cells,): the training cells. None says that all cells are; it must be said.
        threads
            Blocks read ahead.

        Returns
        -------
        Pipeline
            A new one, fitted. Nothing is read when nothing is to be found.
        """
        steps: list[Any] = []
        for step in self.steps:
            done = step.is_fitted
            steps.append(step if done else step.fit(Blocks(corpus, keep, threads, steps)))
        n_cells = corpus.n_cells if keep is None else int(np.count_nonzero(keep))
        return Pipeline(steps, fitted_on={"fingerprint": corpus.fingerprint, "cells": n_cells})

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """Apply all steps to a block; the block itself is left as it is.

        Parameters
        ----------
        block
            Raw counts (B, G).
        genes
            Gene ids of its columns.

        Returns
        -------
        block, genes
            float32, over the genes that are left.
        """
        for step in self.steps:
            if not step.is_fitted:
                raise DataError(
                    f"step {step.kind} is not fitted", wanted="a fitted pipeline", where="Pipeline.apply",
                    fix="call fit(corpus, keep=<training cells>) first",
                )  # fmt: skip
            block, genes = step.apply(block, genes)
        return block, genes

    def apply_anndata(self, adata: AnnData, *, layer: str | None = None) -> AnnData:
        """A new AnnData whose ``X`` is ``X`` (or ``layer``) of ``adata`` after all steps; columns are var_names."""
        raw = adata.X if layer is None else adata.layers[layer]
        matrix = sp.csr_matrix(raw, dtype=np.float32)
        refuse_damage(matrix, where="X" if layer is None else layer, cells=adata.obs_names, genes=adata.var_names)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        block = CountBlock(matrix.indptr, matrix.indices, matrix.data, matrix.shape[1])
        block, genes = self.apply(block, tuple(map(str, adata.var_names)))
        var = adata.var.copy() if list(genes) == list(adata.var_names) else adata.var.reindex(list(genes))
        return AnnData(block.csr(), obs=adata.obs.copy(), var=var)

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact when written as JSON."""
        steps = [{"step": step.kind, **json.loads(json.dumps(asdict(step)))} for step in self.steps]
        return {"steps": steps, "fitted_on": self.fitted_on}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pipeline:
        """Read what `to_json` made; a step of an unknown name is a `ConfigError`."""
        known: dict[str, Any] = {step.kind: step for step in (LibrarySize, Log1p, SelectGenes, SizeFactors)}
        steps = []
        for entry in value["steps"]:
            fields = {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items() if name != "step"}
            if entry.get("step") not in known:
                name = str(entry.get("step"))
                raise ConfigError(
                    f"step {name!r}", where="preprocessing pipeline", fix=registry.did_you_mean(name, list(known))
                )
            steps.append(known[entry["step"]](**fields))
        return cls(steps, fitted_on=value.get("fitted_on"))
