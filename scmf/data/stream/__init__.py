"""Cells in shuffled batches, out of core: plan, reader, batches."""
