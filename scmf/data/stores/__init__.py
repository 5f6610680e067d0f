"""Cells on disk or far away, read by rows: AnnData's zarr and h5ad, Census, AnnData in memory."""
