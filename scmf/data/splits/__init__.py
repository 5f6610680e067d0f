"""Split schemes: reading, making, and what leaks through them."""
