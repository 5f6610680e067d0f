"""Publishing: a checkpoint that stands alone, with its license, its card and its results, on a Hugging Face Hub."""
