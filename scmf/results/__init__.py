"""Measured facts: the result, its file, judging against expected samples. Needs neither torch nor anndata."""
