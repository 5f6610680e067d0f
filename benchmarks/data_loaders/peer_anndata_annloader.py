"""AnnLoader of anndata over backed h5ad files: random rows, read row by row.

Setting ``own`` alone: it shuffles rows, so a batch is as mixed as can be, and has no blocks. ``native`` gives dense
torch tensors as documented; for ``tokens`` its conversion is switched off, so that the rows stay CSR.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import Loader, main
from token_rows import Csr


def make(options: argparse.Namespace) -> Loader:
    """Open the files."""
    import anndata as ad
    import torch
    from anndata.experimental import AnnLoader

    warnings.filterwarnings("ignore", category=FutureWarning, module="anndata")
    cells = [ad.read_h5ad(path, backed="r") for path in sorted(options.store.glob("*.h5ad"))]
    dense = options.output == "native"

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, Any]]:
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = AnnLoader(cells, batch_size=options.batch, shuffle=True, use_default_converter=dense)
        for batch in loader:
            yield np.asarray(batch.obs["row"]), batch.X

    def csr(batch: Any) -> Csr:
        return Csr(batch.indptr, batch.indices, batch.data)

    return Loader(("anndata", "torch", "h5py"), epoch, csr=csr, facts={"dense": dense, "shuffle": "rows"})


if __name__ == "__main__":
    main(make)
