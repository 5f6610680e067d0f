"""One accelerate loop for pretraining and fine-tuning, its objectives, batches and checkpoints."""
