"""Networks that edges are held against: curated and measured regulation, read from the cards; and lists of regulators.

Lives here: which evidence of a file counts, names of genes. Lives elsewhere: the files (cards in datasets/), the
metrics. DoRothEA's inferred edges and binding-site predictions never count: they come of expression, as what is scored
does.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scmf.core import registry
from scmf.core.errors import ConfigError, EvaluationError
from scmf.data.cards.card import file_of, load_card
from scmf.data.cards.sources import fetch_file


@dataclass(frozen=True)
class NetworkTruth:
    """A network.

    Parameters
    ----------
    name
        ``collectri``, ``trrust``, …; also the protocol under which results are filed.
    edges
        Pairs (regulator, target) of gene symbols in capitals, without self loops.
    source
        Where it is from, in words.
    sha256
        Of the file.
    """

    name: str
    edges: frozenset[tuple[str, str]]
    source: str
    sha256: str

    @property
    def genes(self) -> set[str]:
        """Genes with a target or a regulator."""
        return {gene for edge in self.edges for gene in edge}

    @property
    def regulators(self) -> list[str]:
        """Genes with a target, sorted."""
        return sorted({regulator for regulator, _ in self.edges})

    @property
    def targets(self) -> list[str]:
        """Genes with a regulator, sorted."""
        return sorted({target for _, target in self.edges})


def _collectri(path: Path) -> Iterable[tuple[str, str]]:
    table = pd.read_csv(path, usecols=["source", "target"], dtype=str, keep_default_na=False)
    return zip(table["source"], table["target"], strict=True)


def _trrust(path: Path) -> Iterable[tuple[str, str]]:
    table = pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    return zip(table[0], table[1], strict=True)


def _dorothea(column: str) -> Callable[[Path], Iterable[tuple[str, str]]]:
    def read(path: Path) -> Iterable[tuple[str, str]]:
        table = pd.read_parquet(path, columns=["tf", "target", column])
        table = table[table[column].astype(bool)]
        return zip(table["tf"].astype(str), table["target"].astype(str), strict=True)

    return read


def _encode(path: Path) -> Iterable[tuple[str, str]]:
    """Sets of Enrichr, ``TF_CELL LINE_hg19<tab><tab>GENE<tab>…``; human ones alone."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            name, _, genes = line.rstrip("\n").partition("\t")
            if name.endswith("_hg19"):
                # POLR2A with a modification (POLR2AphosphoS2) is no transcription factor
                regulator = name.split("_")[0]
                if not re.search(r"[a-z]", regulator):
                    yield from ((regulator, gene.split(",")[0]) for gene in genes.split("\t") if gene)


TRUTHS: dict[str, tuple[str, Callable[[Path], Iterable[tuple[str, str]]], str]] = {
    "collectri": ("collectri", _collectri, "CollecTRI, signed edges of text mining and curation"),
    "trrust": ("trrust", _trrust, "TRRUST v2, edges read in abstracts and curated"),
    "dorothea_chip": ("dorothea", _dorothea("is_evidence_chip_seq"), "DoRothEA, ChIP-seq evidence (ReMap) alone"),
    "dorothea_curated": ("dorothea", _dorothea("is_evidence_curated"), "DoRothEA, curated evidence alone"),
    "encode": ("encode-chipseq", _encode, "ENCODE TF ChIP-seq 2015, human cell lines pooled"),
}
"""Name -> card, reader, source in words."""


def read_truth(name: str) -> NetworkTruth:
    """Read a network.

    Parameters
    ----------
    name
        One of `TRUTHS`.

    Raises
    ------
    ConfigError
        The name is unknown.
    EvaluationError
        The file holds no edge.
    """
    if name not in TRUTHS:
        raise ConfigError(
            f"network {name!r}", wanted=f"one of {', '.join(TRUTHS)}", where="truths",
            fix=registry.did_you_mean(name, list(TRUTHS)),
        )  # fmt: skip
    card_name, read, source = TRUTHS[name]
    card = load_card(card_name)
    file = file_of(card, "network")
    pairs = ((a.strip().upper(), b.strip().upper()) for a, b in read(fetch_file(card, file)))
    edges = frozenset((a, b) for a, b in pairs if a and b and a != b)
    if not edges:
        raise EvaluationError(
            "no edge", wanted="regulator and target", where=f"card {card_name!r}", fix="fetch it again"
        )
    return NetworkTruth(name, edges, source, file.sha256)


def read_regulators(card: str | Path = "lambert-tfs") -> list[str]:
    """Symbols in capitals of a list of transcription factors, sorted.

    A network of ChIP-seq also has sets of proteins that bind no DNA by themselves (EP300, POLR2A); give these symbols
    as ``regulators`` of `scmf.evaluation.gene_network.benchmark.GeneNetwork.run` to score transcription factors alone.

    Parameters
    ----------
    card
        A card with a file of the role ``regulators``, one symbol a line; its name or its path.

    Raises
    ------
    EvaluationError
        The file holds no symbol.
    """
    held = load_card(card)
    path = fetch_file(held, file_of(held, "regulators"))
    found = sorted({line.strip().upper() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()})
    if not found:
        raise EvaluationError("no symbol", wanted="one a line", where=f"card {held.name!r}", fix="fetch it again")
    return found
