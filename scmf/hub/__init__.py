"""Publishing: a checkpoint that stands alone, with its licence, its card and its results, on a Hugging Face Hub."""
