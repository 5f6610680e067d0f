"""The stream of this project, over each of the stores it reads.

Settings name the store: ``zarr`` and ``h5ad`` give counts or tokens, ``cache`` gives tokens made before. All mix
alike: blocks of 64 cells, 256 of them shuffled together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import BLOCK, BLOCKS_IN_BUFFER, Loader, main


def open_corpus(store: Path, setting: str, *, repeats: int = 1) -> Any:
    """The corpus of a folder of stores; ``repeats`` lets every store stand in it several times."""
    from scmf.data.stores.corpus import Corpus

    if setting == "cache":
        from scmf.data.stores.token_store import TokenStore

        return Corpus([TokenStore(store)] * repeats)
    from scmf.data.stores.open import open_stores

    return Corpus(open_stores([store]) * repeats)


def open_stream(
    corpus: Any,
    setting: str,
    tokenizer: Path,
    *,
    output: str = "tokens",
    batch: int = 64,
    seed: int = 0,
    threads: int = 2,
) -> Any:
    """The stream over an open corpus."""
    from scmf.data.stores.token_store import ReadyTokens
    from scmf.data.stream.plan import Shape
    from scmf.data.stream.reader import CellStream

    shape = Shape(batch_size=batch, block_cells=BLOCK, buffer_blocks=BLOCKS_IN_BUFFER)
    if output == "native" and setting != "cache":
        return CellStream(corpus, shape=shape, seed=seed, layout="ragged", threads=threads)
    if setting == "cache":
        encode: Any = ReadyTokens(0)
    else:
        from scmf.tokenizers.rank_value import RankValueTokenizer
        from scmf.training.token_encoder import TokenEncoder

        encode = TokenEncoder(RankValueTokenizer.from_pretrained(str(tokenizer)))
    return CellStream(corpus, encode, shape=shape, seed=seed, threads=threads, dtypes={"input_ids": np.int32})


def make(options: argparse.Namespace) -> Loader:
    """Open the store."""
    corpus = open_corpus(options.store, options.setting)
    stream = open_stream(
        corpus, options.setting, options.corpus / "tokenizer", output=options.output, batch=options.batch,
        seed=options.seed,
    )  # fmt: skip

    def epoch(number: int) -> Iterator[tuple[np.ndarray, Any]]:
        for batch in stream.epoch(number):
            yield batch.cells, batch

    def ids(batch: Any) -> np.ndarray:
        return batch.columns["input_ids"].astype(np.int32, copy=False)

    facts = {"block_cells": BLOCK, "buffer_blocks": BLOCKS_IN_BUFFER, "threads": 2}
    return Loader(("scmodelforge", "numcodecs", "h5py", "isal"), epoch, ids=ids, facts=facts)


if __name__ == "__main__":
    main(make)
