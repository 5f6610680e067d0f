"""SOMA experiments and the CELLxGENE Census as stores of cells."""
