"""Conversion of any cells into shuffled, sharded AnnData zarr in bounded memory."""
