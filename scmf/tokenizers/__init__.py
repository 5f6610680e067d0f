"""Cells to sequences: one file a strategy. A tokenizer knows no model and no file of ours."""
