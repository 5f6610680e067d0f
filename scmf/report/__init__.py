"""Results and expectations become one table, pages and plots. No torch."""
