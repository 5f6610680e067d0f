"""Benchmarks and baselines: pure functions of predictions and cells. Knows no model class."""
