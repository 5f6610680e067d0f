"""Checks of a file, a card or a split, and what they found."""
