"""AnnData in: cards, sources, gene ids, splits, checks. Knows no tokenizer and no model."""
