"""A tokenizer and a network for scModelForge, brought by a distribution of its own."""
