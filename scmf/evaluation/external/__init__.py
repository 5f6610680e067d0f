"""Benchmark packages of others, called with our predictions: cell-eval and cz-benchmarks."""
