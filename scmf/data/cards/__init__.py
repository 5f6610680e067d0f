"""Dataset cards: sources, checksums, downloads, tables that are joined to the cells."""
