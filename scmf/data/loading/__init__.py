"""The section ``data`` of a configuration applied: cells in memory or as a corpus on disk."""
