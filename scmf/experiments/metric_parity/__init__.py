"""Metrics held against the outputs of the packages that define them, case by case."""
