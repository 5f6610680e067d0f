"""What is measured: which loader, from which store, in which setting, to which output; and which pairs are compared."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One line of the table.

    Parameters
    ----------
    key
        Its name.
    peer
        Name of the script without ``peer_``.
    store
        Folder below the corpus.
    setting
        See the script.
    output
        ``native`` or ``tokens``.
    token_threads
        Threads that tokenize behind the loader; 0: in the loop of the consumer, as a user would write it.
    workers
        Worker processes of a torch DataLoader.
    """

    key: str
    peer: str
    store: str
    setting: str
    output: str
    token_threads: int = 0
    workers: int = 0

    @property
    def script(self) -> str:
        """File name of the script."""
        return f"{self.peer}.py" if self.peer in ("ours", "limits") else f"peer_{self.peer}.py"


STORES = {
    "annbatch.zarr": "annbatch", "scdl": "bionemo_scdl", "soma": "tiledbsoma_ml",
}  # fmt: skip
"""Stores that a peer writes with its own writer."""

CONVERTED = "converted.zarr"
"""Written by ``scmf data convert``."""

CASES = [
    Case("ours converted zarr tokens", "ours", CONVERTED, "zarr", "tokens"),
    Case("ours zarr tokens", "ours", "annbatch.zarr", "zarr", "tokens"),
    Case("annbatch tokens", "annbatch", "annbatch.zarr", "mixed", "tokens"),
    Case("annbatch tokens, 2 token threads", "annbatch", "annbatch.zarr", "mixed", "tokens", token_threads=2),
    Case("annbatch own tokens", "annbatch", "annbatch.zarr", "own", "tokens"),
    Case("annbatch own tokens, 2 token threads", "annbatch", "annbatch.zarr", "own", "tokens", token_threads=2),
    Case("ours zarr counts", "ours", "annbatch.zarr", "zarr", "native"),
    Case("annbatch counts", "annbatch", "annbatch.zarr", "mixed", "native"),
    Case("annbatch own counts", "annbatch", "annbatch.zarr", "own", "native"),
    Case("ours h5ad tokens", "ours", "h5ad", "h5ad", "tokens"),
    Case("scDataset tokens", "scdataset", "h5ad", "mixed", "tokens"),
    Case("scDataset tokens, 2 token threads", "scdataset", "h5ad", "mixed", "tokens", token_threads=2),
    Case("scDataset tokens, 2 workers", "scdataset", "h5ad", "mixed", "tokens", workers=2),
    Case("scDataset own tokens", "scdataset", "h5ad", "own", "tokens"),
    Case("ours h5ad counts", "ours", "h5ad", "h5ad", "native"),
    Case("scDataset counts", "scdataset", "h5ad", "mixed", "native"),
    Case("scDataset dense", "scdataset", "h5ad", "dense", "native"),
    Case("ours gzip h5ad tokens", "ours", "h5ad_gzip", "h5ad", "tokens"),
    Case("scDataset gzip h5ad tokens", "scdataset", "h5ad_gzip", "mixed", "tokens"),
    Case("AnnLoader tokens", "anndata_annloader", "h5ad", "own", "tokens"),
    Case("AnnLoader dense", "anndata_annloader", "h5ad", "own", "native"),
    Case("SCDL tokens", "bionemo_scdl", "scdl", "mixed", "tokens"),
    Case("SCDL tokens, 2 token threads", "bionemo_scdl", "scdl", "mixed", "tokens", token_threads=2),
    Case("SCDL own tokens", "bionemo_scdl", "scdl", "own", "tokens"),
    Case("SCDL counts", "bionemo_scdl", "scdl", "mixed", "native"),
    Case("tiledbsoma-ml tokens", "tiledbsoma_ml", "soma", "mixed", "tokens"),
    Case("tiledbsoma-ml own tokens", "tiledbsoma_ml", "soma", "own", "tokens"),
    Case("ours token cache", "ours", "tokens_int32", "cache", "tokens"),
    Case("ours token cache, int16", "ours", "tokens_int16", "cache", "tokens"),
    Case("HF datasets, Arrow buffers", "hf_datasets", "tokens_int32", "arrow", "tokens"),
    Case("HF datasets, torch", "hf_datasets", "tokens_int32", "torch", "tokens"),
    Case("HF datasets, lists", "hf_datasets", "tokens_int32", "lists", "tokens"),
    Case("limit: memcpy of CSR", "limits", "raw", "memcpy", "native"),
    Case("limit: decompress zarr, 2 threads", "limits", "annbatch.zarr", "decompress", "native"),
    Case("limit: tokenize, 1 thread", "limits", "raw", "tokenize", "tokens"),
    Case("limit: tokenize, 2 threads", "limits", "raw", "tokenize", "tokens", token_threads=2),
    Case("limit: mapped raw CSR to tokens", "limits", "raw", "raw", "tokens", token_threads=2),
]

RATIOS = [
    ("ours converted zarr tokens", "annbatch tokens"),
    ("ours converted zarr tokens", "annbatch tokens, 2 token threads"),
    ("ours converted zarr tokens", "scDataset tokens"),
    ("ours converted zarr tokens", "SCDL tokens, 2 token threads"),
    ("ours zarr tokens", "annbatch tokens"),
    ("ours zarr tokens", "annbatch tokens, 2 token threads"),
    ("ours zarr tokens", "annbatch own tokens"),
    ("ours zarr tokens", "annbatch own tokens, 2 token threads"),
    ("ours zarr tokens", "scDataset tokens"),
    ("ours zarr tokens", "scDataset tokens, 2 token threads"),
    ("ours zarr tokens", "SCDL tokens, 2 token threads"),
    ("ours zarr tokens", "limit: mapped raw CSR to tokens"),
    ("ours zarr counts", "annbatch counts"),
    ("ours zarr counts", "annbatch own counts"),
    ("ours h5ad tokens", "scDataset tokens"),
    ("ours h5ad tokens", "scDataset tokens, 2 token threads"),
    ("ours h5ad tokens", "scDataset tokens, 2 workers"),
    ("ours h5ad tokens", "AnnLoader tokens"),
    ("ours h5ad tokens", "SCDL tokens"),
    ("ours h5ad tokens", "tiledbsoma-ml tokens"),
    ("ours h5ad counts", "scDataset counts"),
    ("ours gzip h5ad tokens", "scDataset gzip h5ad tokens"),
    ("ours token cache", "HF datasets, Arrow buffers"),
    ("ours token cache", "HF datasets, torch"),
    ("ours token cache", "HF datasets, lists"),
]
"""Ours over a peer: taken within each round, then the median of the rounds."""

BARS = {
    "cells_per_s": {
        "ours converted zarr tokens": 75_000, "ours zarr tokens": 75_000, "ours h5ad tokens": 80_000,
        "ours token cache": 500_000,
    },
    "ratio": {
        "ours converted zarr tokens / annbatch tokens": 2.5, "ours zarr tokens / annbatch tokens": 2.5,
        "ours converted zarr tokens / scDataset tokens": 3.0, "ours zarr tokens / scDataset tokens": 3.0,
    },
    "rss_mb": 2_000,
}  # fmt: skip
"""The goals that were set before, by wall clock."""
