"""What a perturbation does to a cell: to the ranking of its genes, or to its counts before tokenization.

`RankEditor` is the definition of Geneformer (Theodoris et al. 2023): a deleted gene leaves the ranking, an
over-expressed one goes to its front. `CountEditor` serves every other tokenizer: the count of a deleted gene becomes 0,
that of an over-expressed one the largest of the cell or a multiple of itself, and the cell is tokenized again.

Lives elsewhere: which genes in which cells (plan), embedding and comparing (shifts).

Legend: E edits, O cells as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from scmf.data.loading.facts import LoadedCells
from scmf.data.stores.ragged import Ragged, offsets_of
from scmf.evaluation.in_silico.plan import Kind, Plan, Targets, plan
from scmf.tokenizers.build import ragged_of
from scmf.tokenizers.coverage import gene_tokens
from scmf.tokenizers.gene_columns import to_tokens


class Block(NamedTuple):
    """Some edits, tokenized.

    Parameters
    ----------
    perturbed
        The changed cells (E).
    originals
        The cells they are compared with (O), each once.
    original_E
        Which of `originals` each edit is compared with.
    keys
        What tells the cells of `originals` apart from block to block (O).
    is_read_E
        False where the model does not read the changed gene: a long cell was sampled or cut.
    """

    perturbed: Ragged
    originals: Ragged
    original_E: np.ndarray
    keys: list[tuple[int, int]]
    is_read_E: np.ndarray


class Editor(Protocol):
    """Cells that can be changed."""

    definition: str
    """What is done, in one sentence."""

    def plan(self) -> Plan:
        """All edits of the cells."""
        ...

    def block(self, cell_E: np.ndarray, target_E: np.ndarray) -> Block:
        """The changed cells of some edits and what they are compared with."""
        ...


# --- the ranking ----------------------------------------------------------------------------------


class Frame(NamedTuple):
    """Special tokens around the genes of every cell, and how long a cell may be with them."""

    max_length: int
    front: int = 0
    back: int = 0


def without(ids: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """A ranking without some genes."""
    return ids[~np.isin(ids, tokens)]


def cropped(ids: np.ndarray, length: int, frame: Frame) -> np.ndarray:
    """The first genes of a ranking, so that it has a length; what stands behind the genes stays."""
    length = max(length, frame.front + frame.back + 1)
    if len(ids) <= length:
        return ids
    return np.concatenate([ids[: length - frame.back], ids[len(ids) - frame.back :]])


def in_front(
    ids: np.ndarray, tokens: Sequence[int], frame: Frame, *, match_official: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A ranking with some genes in front, and the ranking that it is compared with.

    Genes that no longer fit are dropped at the end, and from the cell as it was too, so that both hold the same genes
    but for the new ones.

    Parameters
    ----------
    ids
        The ranking, special tokens included.
    tokens
        Genes that go to the front, in this order.
    frame
        Special tokens and the longest cell.
    match_official
        Drop as many from the cell as it was as the official code does. It counts the new genes twice, so that cells
        that nearly fill the length lose genes which the perturbed cell keeps.
    """
    others = without(ids, tokens)
    n_new = len(tokens) - int(np.isin(tokens, ids).sum())
    moved = np.concatenate([others[: frame.front], np.asarray(tokens, ids.dtype), others[frame.front :]])
    fits = cropped(moved, frame.max_length, frame)
    if match_official:
        return fits, cropped(ids, len(ids) - max(len(fits) + n_new - frame.max_length, 0), frame)
    return fits, ids[np.isin(ids, fits)]


class RankEditor:
    """Changes of the ranking of the genes.

    Parameters
    ----------
    tokens
        Cells of rank-value tokens, which are one column, ``input_ids``.
    targets, kind
        What is done to which genes.
    frame
        Special tokens and the longest cell.
    by_gene
        The genes that stay are compared, so that over-expression too leaves out cells without any.
    match_official
        See `in_front`.
    """

    def __init__(
        self, tokens: Ragged, targets: Targets, kind: Kind, frame: Frame, *, by_gene: bool = False,
        match_official: bool = False,
    ) -> None:  # fmt: skip
        self.tokens, self.targets, self.kind, self.frame = tokens, targets, kind, frame
        self.by_gene, self.match_official = by_gene, match_official
        self.definition = (
            "the token of the gene is taken out of the ranking"
            if kind == "delete"
            else "the token of the gene is put in front of the ranking; what no longer fits is dropped at the end"
        )

    def plan(self) -> Plan:
        """All edits; over-expression takes cells without the gene too, deletion leaves them out."""
        offsets, ids = self.tokens.offsets, self.tokens.columns["input_ids"]
        place_P = np.arange(len(ids)) - np.repeat(offsets[:-1], self.tokens.lengths)
        last_P = np.repeat(self.tokens.lengths, self.tokens.lengths) - self.frame.back
        is_gene_P = (place_P >= self.frame.front) & (place_P < last_P)
        lengths_N = self.tokens.lengths - self.frame.front - self.frame.back
        deletes = self.kind == "delete"
        return plan(
            offsets_of(lengths_N), ids[is_gene_P], self.targets,
            emptying=deletes or self.by_gene, needs_gene=deletes, skip_first=not deletes,
        )  # fmt: skip

    def block(self, cell_E: np.ndarray, target_E: np.ndarray) -> Block:
        """See `Editor`."""
        offsets, ids = self.tokens.offsets, self.tokens.columns["input_ids"]
        changed: list[np.ndarray] = []
        compared: dict[tuple[int, int], np.ndarray] = {}
        keys: list[tuple[int, int]] = []
        for cell, target in zip(cell_E.tolist(), target_E.tolist(), strict=True):
            mine, genes = ids[offsets[cell] : offsets[cell + 1]], self.targets.tokens[target]
            if self.kind == "delete":
                new, old = without(mine, genes), mine
            else:
                new, old = in_front(mine, genes, self.frame, match_official=self.match_official)
            changed.append(new)
            keys.append((cell, hash(old.tobytes())))
            compared.setdefault(keys[-1], old)
        number = {key: i for i, key in enumerate(compared)}
        return Block(
            self._ragged(changed, cell_E),
            self._ragged(list(compared.values()), np.array([cell for cell, _ in compared])),
            np.array([number[key] for key in keys]),
            list(compared),
            np.ones(len(keys), bool),
        )

    def _ragged(self, rows: list[np.ndarray], cells: np.ndarray) -> Ragged:
        tensors = {name: values[cells] for name, values in self.tokens.cell_tensors.items()}
        lengths = np.array([len(row) for row in rows])
        return Ragged(offsets_of(lengths), {"input_ids": np.concatenate(rows)}, tensors, self.tokens.pad_values)


# --- the counts -----------------------------------------------------------------------------------


class CountEditor:
    """Changes of the counts, before a tokenizer reads them.

    Parameters
    ----------
    tokenizer
        Any tokenizer.
    cells
        Raw counts.
    tokens
        Tokens of the same cells.
    targets, kind
        What is done to which genes.
    fold
        Over-expression multiplies the count by this number; None: the count becomes the largest of the cell.
    """

    def __init__(
        self, tokenizer: Any, cells: LoadedCells, tokens: Ragged, targets: Targets, kind: Kind, *, fold: int | None
    ) -> None:
        self.tokenizer, self.tokens, self.targets, self.kind, self.fold = tokenizer, tokens, targets, kind, fold
        self.totals = cells.total_counts
        self.definition = {
            ("delete", False): "the count of the gene becomes 0 before tokenization",
            ("overexpress", False): "the count of the gene becomes the largest of the cell before tokenization",
            ("overexpress", True): f"the count of the gene is multiplied by {fold} before tokenization",
        }[kind, fold is not None]
        names = [str(name) for name in cells.var_names]
        meaning = gene_tokens(tokenizer, names, where=cells.facts.dataset)
        missing = sorted({token for group in targets.tokens for token in group} - set(meaning.token_G.tolist()))
        if missing and kind == "overexpress" and not targets.every:  # a gene that the file does not have
            called = {number: token for token, number in tokenizer.get_vocab().items()}
            names += [called[token] for token in missing]
            meaning = gene_tokens(tokenizer, names, where=cells.facts.dataset)
        counts = sp.csr_matrix(cells.X)
        self.counts = sp.csr_matrix(
            (counts.data, counts.indices, counts.indptr), shape=(len(counts.indptr) - 1, len(names))
        )
        self.genes, self.meaning = tuple(names), meaning
        self.known = to_tokens(self.counts, meaning.places)

    def plan(self) -> Plan:
        """All edits; cells without the gene are left out unless it becomes the largest count."""
        deletes = self.kind == "delete"
        return plan(
            self.known.indptr, self.known.ids, self.targets,
            emptying=deletes, needs_gene=deletes or self.fold is not None, skip_first=False,
        )  # fmt: skip

    def block(self, cell_E: np.ndarray, target_E: np.ndarray) -> Block:
        """See `Editor`."""
        rows = [self._row(cell, self.targets.tokens[target]) for cell, target in zip(cell_E, target_E, strict=True)]
        matrix = sp.csr_matrix(
            (
                np.concatenate([data for _, data in rows]), np.concatenate([columns for columns, _ in rows]),
                offsets_of(np.array([len(columns) for columns, _ in rows])),
            ), shape=(len(rows), len(self.genes)),
        )  # fmt: skip
        totals = None
        if self.totals is not None:
            before_E = np.asarray(self.counts[cell_E].sum(axis=1)).ravel()
            totals = self.totals[cell_E] + np.asarray(matrix.sum(axis=1)).ravel() - before_E
        encoded = self.tokenizer.encode_cells(matrix, self.genes, n_counts=totals)
        cells, original_E = np.unique(cell_E, return_inverse=True)
        kept = {name: values[cell_E] for name, values in self.tokens.cell_tensors.items()}
        perturbed, originals = ragged_of(self.tokenizer, encoded, before=kept), self.tokens.select(cells)
        # A gene whose count is left has to stand in the cell as it was, one that gets a count in the changed cell.
        read, at_E = (perturbed, np.arange(len(rows))) if self._adds else (originals, original_E)
        is_read_E = np.array([
            bool(np.isin(self.targets.tokens[target], _ids(read, at)).all())
            for target, at in zip(target_E, at_E, strict=True)
        ])  # fmt: skip
        return Block(perturbed, originals, original_E, [(int(cell), 0) for cell in cells], is_read_E)

    @property
    def _adds(self) -> bool:
        """Whether cells without the gene get it."""
        return self.kind == "overexpress" and self.fold is None

    def _row(self, cell: int, tokens: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Columns and counts of a changed cell; the columns of one gene are changed as one."""
        span = slice(self.counts.indptr[cell], self.counts.indptr[cell + 1])
        columns, data = self.counts.indices[span], self.counts.data[span]
        others = ~np.isin(self.meaning.token_G[columns], tokens)
        if self.kind == "delete":
            return columns[others], data[others]
        mine = slice(self.known.indptr[cell], self.known.indptr[cell + 1])
        ids, counts = self.known.ids[mine], self.known.counts[mine]
        values = [
            counts.max() if self.fold is None else counts[ids == token].sum() * self.fold for token in tokens
        ]  # fmt: skip
        places = [int(np.flatnonzero(self.meaning.token_G == token)[0]) for token in tokens]
        columns = np.concatenate([columns[others], np.array(places, columns.dtype)])
        data = np.concatenate([data[others], np.array(values, data.dtype)])
        order = np.argsort(columns)
        return columns[order], data[order]


def _ids(cells: Ragged, row: int) -> np.ndarray:
    """The tokens of a cell."""
    ids: np.ndarray = cells.columns["input_ids"][cells.offsets[row] : cells.offsets[row + 1]]
    return ids
