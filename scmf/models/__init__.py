"""One file a model family, each readable from top to bottom, needing only torch and transformers."""
