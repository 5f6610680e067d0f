"""Optional backends: tasks and result files of cz-benchmarks, metrics of cell-eval. Others compute, we file."""
