"""Gene networks: edges from models, truth networks, ranking metrics, baselines."""
