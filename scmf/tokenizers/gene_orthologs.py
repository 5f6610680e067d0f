"""Which genes of the mouse stand for the genes of a vocabulary, saved with a tokenizer.

Lives here: the table and its file, for every strategy; this file travels with a saved tokenizer. Lives elsewhere: cells
of the mouse brought through it (scmf.tokenizers.species), where it comes from (scmf.data.genes.orthologs).
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizer

from .rank_value_tables import read_table, write_tables

ORTHOLOGS = {"orthologs_file": "gene_orthologs.json"}
"""For ``vocab_files_names`` of a strategy."""


class GeneTokenizer(PreTrainedTokenizer):
    """A tokenizer of genes that keeps the orthologs which its model was trained with.

    Parameters
    ----------
    orthologs_file
        JSON file, mouse Ensembl id or symbol in upper case -> gene; not there where no orthologs were used.
    kwargs
        Passed to `transformers.PreTrainedTokenizer`.
    """

    def __init__(self, *, orthologs_file: str | None = None, **kwargs: Any) -> None:
        name = ORTHOLOGS["orthologs_file"]
        self.gene_orthologs: dict[str, str] = {} if orthologs_file is None else read_table(orthologs_file, name)
        super().__init__(**kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Write the tokenizer, with its orthologs where it has some, and return the paths."""
        paths: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        if not self.gene_orthologs:
            return paths
        tables = {ORTHOLOGS["orthologs_file"]: self.gene_orthologs}
        return (*paths, *write_tables(str(save_directory), kwargs.get("filename_prefix"), tables))
