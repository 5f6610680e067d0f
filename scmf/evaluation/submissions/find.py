"""From a word on the command line to the submission that it means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anndata import AnnData

from scmf.core.content import sha256_of
from scmf.core.errors import ConfigError
from scmf.core.files import is_zarr, sha256_json
from scmf.data.stores.adata_memory import IN_MEMORY, digest_of, in_memory
from scmf.data.stores.formats import foreign
from scmf.evaluation.submissions.baselines import BASELINES, BaselinesSubmission
from scmf.evaluation.submissions.edges import EdgesSubmission
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.evaluation.submissions.predictions import PredictionsSubmission
from scmf.evaluation.submissions.protocol import Origin, Submission
from scmf.evaluation.submissions.vectors import VectorsSubmission
from scmf.evaluation.tasks import Task
from scmf.models.published.names import means_model


def find_submission(
    word: str | AnnData,
    *,
    tasks: Iterable[Task],
    obsm: str | None = None,
    by_order: bool = False,
    name: str | None = None,
    corpora: tuple[str, ...] = (),
    **of_model: Any,
) -> Submission:
    """The submission that a word on the command line means.

    Parameters
    ----------
    word
        ``baselines``; the folder of a run or checkpoint, or the name of a model; an .h5ad file; a .tsv or .csv file;
        with ``obsm`` the name of a card that brings vectors along; or an AnnData with embeddings or predicted cells.
    tasks
        What it will be scored on; predicted cells and embeddings are told apart by them.
    obsm
        Key of vectors.
    by_order
        The vectors of a file are those of the cells of a task in their order, whatever their ids.
    name
        ``recipe/variant`` for results of files and cards.
    corpora
        What the maker of a file or card was trained on, for the leak marks.
    of_model
        Options of `ModelSubmission.of_folder`.

    Raises
    ------
    ConfigError
        The word means nothing, or a file or AnnData came without a name.
    """
    if isinstance(word, AnnData):
        held = in_memory(word)
        origin = _origin(IN_MEMORY, name, digest_of(held, obsm), obsm=obsm, by_order=by_order, corpora=corpora)
        return _of_cells(held, origin, tasks, obsm=obsm, by_order=by_order)
    path = Path(word)
    if by_order and (obsm is None or not path.is_file() and not is_zarr(path)):
        raise ConfigError(
            f"--by-order with {word!r}", wanted="a file with embeddings, and --obsm", where="scmf evaluate",
            fix="leave --by-order out: a model and a card name their cells",
        )  # fmt: skip
    if word == BASELINES:
        return BaselinesSubmission.new()
    if (path.is_dir() and not is_zarr(path)) or (not path.exists() and means_model(word)):
        return ModelSubmission.of_folder(word, **of_model)
    if path.is_file() and path.suffix not in (".tsv", ".csv") and (known := foreign(path)) is not None:
        raise known
    card = obsm is not None and not path.exists() and all(task.dataset == word for task in tasks)
    if not card and not path.exists():
        raise ConfigError(
            f"{word!r}", wanted=f"{BASELINES}, the folder of a run, a published model, an .h5ad, .tsv or .csv "
            "file, or a card with --obsm",
            where="scmf evaluate", fix="check the path",
        )  # fmt: skip
    digest = sha256_json([word, obsm]) if card else sha256_of(path)
    origin = _origin(word, name, digest, obsm=obsm, by_order=by_order, corpora=corpora)
    if card:
        assert obsm is not None
        return VectorsSubmission(origin, obsm)
    if path.suffix in (".tsv", ".csv"):
        return EdgesSubmission(origin, path)
    return _of_cells(path, origin, tasks, obsm=obsm, by_order=by_order)


def _origin(
    word: str, name: str | None, digest: str, *, obsm: str | None, by_order: bool, corpora: tuple[str, ...]
) -> Origin:
    """Who is scored, of what a file, a card or an AnnData holds."""
    recipe, _, variant = (name or "").partition("/")
    if not recipe or not variant:
        raise ConfigError(
            f"--as {name}", wanted="recipe/variant, under which the results are filed", where="scmf evaluate",
            fix="for example --as my-model/v1",
        )  # fmt: skip
    words = (word, *(("--obsm", obsm) if obsm else ()), *(("--by-order",) if by_order else ()), "--as", str(name))
    words += tuple(part for corpus in corpora for part in ("--trained-on", corpus))
    return Origin(recipe, variant, "published", digest, words, corpora=corpora)


def _of_cells(
    cells: Path | AnnData, origin: Origin, tasks: Iterable[Task], *, obsm: str | None, by_order: bool
) -> Submission:
    """Embeddings or predicted cells, in a file or in memory."""
    if obsm is not None:
        return VectorsSubmission(origin, obsm, cells, by_order)
    if {task.benchmark for task in tasks} != {"perturbation"}:
        raise ConfigError(
            f"{origin.words[0]} without --obsm", wanted="the key of the embedding, or tasks of the perturbation "
            "benchmark alone", where="scmf evaluate", fix="add --obsm X_…",
        )  # fmt: skip
    return PredictionsSubmission(origin, cells)
