"""Published models by name: their cards, getting their weights, converting them once."""
