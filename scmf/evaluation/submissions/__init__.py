"""What can be scored on a task: a model, the baselines, vectors of cells, predicted cells, edges of genes."""
