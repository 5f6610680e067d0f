"""Cell-type annotation: probes, transfer, fine-tuned heads and their scores."""
