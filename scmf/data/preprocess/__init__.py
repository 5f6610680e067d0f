"""Preprocessing of raw counts, block by block, fitted on the training cells alone.

normalize
    A `Pipeline` of steps that travels as JSON.
steps
    Library size, logarithm, chosen genes.
size_factors
    Size factors of cells, by which method of which package.
hvg
    Highly variable genes, equal to scanpy's; moments holds the passes behind them.
quality
    Counts, genes and mitochondrial share of each cell, and the filters made of them.
columns
    Which column of a store is which gene.

The order that does not leak: split, filter cells, fit on the training part (``keep=``), apply to all.
"""
