"""What everything may use: errors, files, configuration, the registry of names, provenance, processes."""
