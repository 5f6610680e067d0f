"""scModelForge: reproducible recipes for single-cell foundation models, and the toolkit they are made of."""
