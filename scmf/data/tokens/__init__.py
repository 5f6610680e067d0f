"""Ragged tokens of cells, padding, token datasets and the cache of tokens."""
