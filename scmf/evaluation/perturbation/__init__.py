"""Perturbation prediction: truth, baselines, metrics, splits, ranks."""
