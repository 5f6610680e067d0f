"""In-silico deletion and over-expression of genes, and how far the embedding of a cell moves."""
