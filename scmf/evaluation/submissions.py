"""What can be scored on a task: a trained model, the baselines, vectors in a file, predicted cells, a table of edges.

A subject gives what a benchmark asks for: vectors of cells, predicted cells of a perturbation, edges between genes.
Lives here: the kinds of subjects and finding the one that a word on the command line means. Lives elsewhere: the tasks
(suite), the scoring (suite_run), the metrics and the baselines themselves (eval), edges of a model (gene_edges).

Array legend: N cells, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scmf.core.config.run import EvalConfig
from scmf.core.errors import ConfigError, DataError, EvaluationError
from scmf.core.files import sha256_file, sha256_json
from scmf.evaluation.tasks import Task, data_of
from scmf.models.run_folder import RunFolder

KNOWN_GENES = 5
"""Perturbed training genes that a model must have vectors for: those of two genes are all alike but for a sign."""

BASELINES = "baselines"
"""Word for what needs no model."""


@dataclass(frozen=True)
class Origin:
    """Who was scored, as results say it.

    Parameters
    ----------
    recipe, variant, tier
        Under which the results are filed.
    digest
        Ties a result to what was scored: the recipe's digest, or the checksum of a file.
    words
        What names the subject on the command line.
    seed, parameters
        Seed of the training and parameters of the network; None without one.
    corpora
        What it was trained on, as ``part_of`` of cards names corpora, or ``<dataset>.<split>`` for the training part of
        a split.
    """

    recipe: str
    variant: str
    tier: str
    digest: str
    words: tuple[str, ...]
    seed: int | None = None
    parameters: int | None = None
    corpora: tuple[str, ...] = ()


class Subject(Protocol):
    """Whatever is scored. A method that has nothing to give returns an empty mapping."""

    @property
    def origin(self) -> Origin:
        """Who is scored."""

    def vectors(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """Method to vectors of the cells, (N, D)."""

    def labels(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """Method to labels of the test cells by a fine-tuned head, str (n_test,)."""

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """Method to predicted cells, as `scmf.evaluation.perturbation.benchmark` takes them."""

    def edges(self, task: Task, cells: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Method to a table ``regulator, target, weight``."""


@dataclass(frozen=True)
class Nothing:
    """Gives nothing; subjects say what they give instead."""

    origin: Origin

    def vectors(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """Nothing."""
        return {}

    def labels(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """Nothing."""
        return {}

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def edges(self, task: Task, cells: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Nothing."""
        return {}


# --- the baselines --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baselines(Nothing):
    """Everything that needs no foundation model."""

    @classmethod
    def new(cls) -> Baselines:
        """The one there is."""
        return cls(Origin(BASELINES, "reference", "mini", sha256_json(BASELINES), (BASELINES,)))

    def vectors(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """``hvg`` and ``pca``, fitted on the training cells."""
        from scmf.evaluation.baselines import baseline_representations

        return baseline_representations(cells, np.flatnonzero(cells.obs["part"].to_numpy() == "train"))

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """No change, means, additive, linear, nearest, and the replicate ceiling."""
        from scmf.evaluation.perturbation.benchmark import Perturbation

        return Perturbation().baselines(truth)

    def edges(self, task: Task, cells: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Correlation, GRNBoost2 and random weights."""
        from scmf.evaluation.gene_network.baselines import baseline_edges

        return baseline_edges(cells, regulators=regulators, targets=targets)


# --- a trained model ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model(Nothing):
    """Weights with their tokenizer, and the same network before training."""

    model: Any
    tokenizer: Any
    settings: EvalConfig
    folder: Path | None = None
    methods: tuple[str, ...] = ("pretrained", "untrained")
    _untrained: list[Any] = field(default_factory=list, compare=False)

    @classmethod
    def of_folder(cls, folder: Path) -> Model:
        """The model of a run's folder (with ``run.json``), or of a checkpoint."""
        from scmf.models.checkpoint import load_run_model

        model, tokenizer = load_run_model(folder)
        run = RunFolder.find(folder)
        parameters = sum(value.numel() for value in model.parameters())
        layer, pooling = model.embedding_defaults
        if run is None:
            weights = folder / "model.safetensors"
            origin = Origin(
                folder.resolve().name, "checkpoint", "published", sha256_file(weights), (str(folder),),
                parameters=parameters,
            )  # fmt: skip
            return cls(origin, model, tokenizer, EvalConfig(embedding_layer=layer, pooling=pooling), folder)
        config = run.config
        corpus = config.data.dataset or ", ".join(Path(file).name for file in config.data.files) or "streamed"
        origin = Origin(
            *(run.fact(key) for key in ("recipe", "variant")), "mini", run.fact("recipe_digest"), (str(folder),),
            seed=run.fact("seed"), parameters=parameters, corpora=(f"{corpus}.{config.data.split or 'all'}",),
        )  # fmt: skip
        return cls(origin, model, tokenizer, config.eval, run.path)

    @property
    def untrained(self) -> Any:
        """The same shape, before any step."""
        if not self._untrained:
            from copy import deepcopy

            import torch

            from scmf.models.checkpoint import copy_frozen

            torch.manual_seed(self.origin.seed or 0)
            self._untrained.append(type(self.model)(deepcopy(self.model.config)).eval())
            copy_frozen(self.model, self._untrained[0])
        return self._untrained[0]

    @property
    def networks(self) -> dict[str, Any]:
        """Method to network."""
        return {method: self.model if method == "pretrained" else self.untrained for method in self.methods}

    def on(self, task: Task, cells: Any) -> Any:
        """The cells as this model reads them: symbols taken to Ensembl ids where its tokenizer knows only those."""
        from scmf.data.loading.load import load_cells

        kind = cells.uns["scmf"]["gene_ids"]
        ensembl = any(str(token).startswith("ENSG") for token in self.tokenizer.get_vocab())
        if kind == "symbol" and ensembl and task.gene_set is not None:
            cells = load_cells(data_of(task, gene_set=task.gene_set))
        return cells

    def tokens(self, task: Task, cells: Any) -> Any:
        """Tokens of the cells. A batch column is left out: a model knows the batches of its training alone."""
        from scmf.tokenizers.build import tokenize

        mine = self.on(task, cells).copy()
        mine.uns["scmf"] = {**mine.uns["scmf"], "batch_key": None}
        return tokenize(self.tokenizer, mine)

    def vectors(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """Embeddings by the layer and pooling of the run."""
        from scmf.models.embed import embed_tokens

        tokens = self.tokens(task, cells)
        return {name: embed_tokens(network, tokens, settings=self.settings) for name, network in self.networks.items()}

    def labels(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """Labels by a head that is fine-tuned as the run's own recipe says; nothing where it says nothing."""
        from scmf.training.data import Prepared
        from scmf.training.finetune import finetune

        run = None if self.folder is None else RunFolder.find(self.folder)
        if run is None or self.settings.finetune is None:
            return {}
        recipe = run.recipe()
        mine = self.on(task, cells)
        prepared = Prepared(mine, self.tokenizer, self.tokens(task, cells))
        out = run.path / "tasks" / f"{task.dataset}.{task.split}"
        return {method: finetune(recipe, prepared, run.model, out, method=method) for method in self.methods}

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """The linear model of Ahlmann-Eltze et al. with the gene vectors of the network."""
        from scmf.evaluation.gene_network.model_edges import gene_vectors
        from scmf.evaluation.perturbation.baselines import linear

        pairs = [*truth.pairs, *truth.training_pairs]
        perturbed = sorted({gene for _, condition in pairs for gene in truth.genes_of(condition)})
        found = {name: gene_vectors(network, self.tokenizer, perturbed) for name, network in self.networks.items()}
        trained = {gene for _, condition in truth.training_pairs for gene in truth.genes_of(condition)}
        enough = {name: table for name, table in found.items() if len(trained & set(table)) >= KNOWN_GENES}
        return {f"{name}-linear": linear(truth, gene_embeddings=table) for name, table in enough.items()}

    def edges(self, task: Task, cells: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Edges from attention, gene vectors and in-silico knock-out, where the network can."""
        from scmf.evaluation.gene_network.model_edges import model_edges

        mine = self.on(task, cells)
        found: dict[str, Any] = {}
        for name, network in self.networks.items():
            for kind, edges in model_edges(
                network, self.tokenizer, mine, regulators=regulators, targets=targets
            ).items():
                found[f"{name}-{kind}"] = edges
        return found


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vectors(Nothing):
    """Embeddings that somebody published, or that lie in a file of your own."""

    obsm: str
    file: Path | None = None

    def vectors(self, task: Task, cells: Any) -> Mapping[str, np.ndarray]:
        """The vectors of these cells, by cell id."""
        if self.file is None:
            held, where = cells, f"card {task.dataset!r}"
        else:
            from scmf.data.loading.load import read_file

            held, where = read_file(self.file), str(self.file)
        if self.obsm not in held.obsm:
            raise DataError(
                f"no {self.obsm!r} in obsm", wanted=f"one of {', '.join(held.obsm) or '(there is none)'}", where=where,
                fix="choose another --obsm",
            )  # fmt: skip
        rows = held.obs_names.get_indexer(cells.obs_names)
        if (lost := int((rows < 0).sum())) or not held.obs_names.is_unique:
            raise DataError(
                f"{lost} of {cells.n_obs} cells have no vector", wanted="a vector for every cell of the task, by id",
                where=where, fix=f"embed all cells of {task.dataset!r}",
            )  # fmt: skip
        x_ND = np.asarray(held.obsm[self.obsm], np.float32)[rows]
        if not np.isfinite(x_ND).all():
            raise DataError(
                "vectors that are not finite", wanted="finite numbers", where=where, fix="mend the embedding"
            )
        return {"official" if self.file is None else "mini": x_ND}


@dataclass(frozen=True)
class PredictedCells(Nothing):
    """Predicted cells of a perturbation screen in an .h5ad file, log-normalized as the truth is."""

    file: Path

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """The cells of the file by covariate and condition."""
        from scmf.data.loading.load import read_file
        from scmf.evaluation.perturbation.truth import read_prediction

        return {"predicted": read_prediction(read_file(self.file), truth, where=self.file)}


@dataclass(frozen=True)
class EdgeTable(Nothing):
    """Edges ``regulator, target, weight`` in a table."""

    file: Path

    def edges(self, task: Task, cells: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """The table."""
        import pandas as pd

        table = pd.read_csv(self.file, sep=None, engine="python")
        wanted = ["regulator", "target", "weight"]
        if not set(wanted) <= set(table.columns):
            raise EvaluationError(
                f"columns {', '.join(map(str, table.columns))}", wanted=", ".join(wanted), where=self.file,
                fix="name the columns so",
            )  # fmt: skip
        return {"edges": table[wanted]}


# --- from a word to a subject ---------------------------------------------------------------------


def find_subject(
    word: str,
    *,
    tasks: Iterable[Task],
    obsm: str | None = None,
    name: str | None = None,
    corpora: tuple[str, ...] = (),
) -> Subject:
    """The subject that a word on the command line means.

    Parameters
    ----------
    word
        ``baselines``; the folder of a run or checkpoint; an .h5ad file; a .tsv or .csv file; with ``obsm`` the name of
        a card that brings vectors along.
    tasks
        What it will be scored on; predicted cells and embeddings are told apart by them.
    obsm
        Key of vectors.
    name
        ``recipe/variant`` for results of files and cards.
    corpora
        What the maker of a file or card was trained on, for the leak marks.

    Raises
    ------
    ConfigError
        The word means nothing, or a file came without a name.
    """
    path = Path(word)
    if word == BASELINES:
        return Baselines.new()
    if path.is_dir():
        return Model.of_folder(path)
    card = obsm is not None and not path.exists() and all(task.dataset == word for task in tasks)
    if not card and not path.is_file():
        raise ConfigError(
            f"{word!r}", wanted=f"{BASELINES}, the folder of a run, an .h5ad, .tsv or .csv file, or a card with --obsm",
            where="scmf evaluate", fix="check the path",
        )  # fmt: skip
    recipe, _, variant = (name or "").partition("/")
    if not recipe or not variant:
        raise ConfigError(
            f"--as {name}", wanted="recipe/variant, under which the results are filed", where="scmf evaluate",
            fix="for example --as my-model/v1",
        )  # fmt: skip
    digest = sha256_json([word, obsm]) if card else sha256_file(path)
    words = (word, *(("--obsm", obsm) if obsm else ()), "--as", str(name))
    words += tuple(part for corpus in corpora for part in ("--trained-on", corpus))
    origin = Origin(recipe, variant, "published", digest, words, corpora=corpora)
    if card:
        assert obsm is not None
        return Vectors(origin, obsm)
    if path.suffix in (".tsv", ".csv"):
        return EdgeTable(origin, path)
    if obsm is not None:
        return Vectors(origin, obsm, path)
    if {task.benchmark for task in tasks} != {"perturbation"}:
        raise ConfigError(
            f"{word} without --obsm", wanted="the key of the embedding, or tasks of the perturbation benchmark alone",
            where="scmf evaluate", fix="add --obsm X_…",
        )  # fmt: skip
    return PredictedCells(origin, path)
