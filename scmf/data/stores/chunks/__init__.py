"""Compressed arrays by spans of rows: zarr and HDF5 layouts, codecs, blosc."""
