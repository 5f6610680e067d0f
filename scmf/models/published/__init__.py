"""Published models by name: their cards, getting their weights, converting them into folders that every command takes."""
