"""Benchmarks and the engine that scores submissions on tasks."""
