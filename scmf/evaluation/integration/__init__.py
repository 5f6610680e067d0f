"""Batch integration: scIB metrics and scGPT's composite scores."""
