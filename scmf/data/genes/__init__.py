"""Gene ids, symbols, aliases, orthologs, gene sets, vocabularies and gene vectors."""
