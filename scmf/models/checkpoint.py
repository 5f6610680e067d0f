"""Models built, loaded and saved, with the tokenizer they belong to.

Lives here: ``from_pretrained`` that refuses what does not fit or is not as it was saved, the folder that holds model
and tokenizer. Lives elsewhere: the networks (models), official checkpoints (models.published), resumable checkpoints
(training.checkpoints).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForPreTraining, AutoModelForSequenceClassification, PreTrainedModel

from scmf.core import manifest, registry
from scmf.core.config.renamed import RENAMED, load_tokenizer, renamed_in
from scmf.core.errors import ModelError, ScmfError
from scmf.core.files import peek_object, read_object
from scmf.core.owned import by_manifest, new_folder, refuse_replacing
from scmf.core.progress import quiet_transformers
from scmf.models.configuration_wrapped_module import WrappedModuleConfig
from scmf.models.foreign import other_weights
from scmf.models.published.cached import how_to_remake
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.models.wrapped_module import WrappedModule


def copy_frozen(source: Any, target: Any) -> None:
    """Give ``target`` the tensors of ``source`` that are given and not trained, such as pretrained gene vectors."""
    names = [name for name in source.state_dict() if name.endswith(tuple(source.frozen_tensors) or ("\0",))]
    tensors = source.state_dict()
    with torch.no_grad():
        for name, tensor in target.state_dict(keep_vars=True).items():
            if name in names:
                tensor.data.copy_(tensors[name])


def read_config(folder: Path | str, **changes: Any) -> Any:
    """The configuration of saved weights whose family is registered, also one saved with the names of before."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **changes)
    for key, value in renamed_in("config.json", Path(folder) / "config.json").items():
        setattr(config, key, value)
    for old in RENAMED["config.json"]:
        vars(config).pop(old, None)
    return config


def family_of(architecture: str) -> Any:
    """The class of an architecture; `WrappedModule` where it is a plain ``torch.nn.Module``."""
    found = registry.resolve("models", architecture)
    plain = isinstance(found, type) and issubclass(found, torch.nn.Module) and not issubclass(found, PreTrainedModel)
    return WrappedModule if plain else found


def load_weights(family: Any, folder: Path | str, **kwargs: Any) -> Any:
    """``from_pretrained`` in float32 that refuses weights which do not fit or are not as they were saved."""
    _refuse_no_config(folder)
    verify_model(Path(folder))
    return _from_pretrained(family, folder, **kwargs)


def _refuse_no_config(folder: Path | str) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise ModelError(
            "no config.json", wanted="a folder written by save_pretrained", where=folder, fix="check the path"
        )


def _from_pretrained(family: Any, folder: Path | str, **kwargs: Any) -> Any:
    """The weights of a folder that was verified; those that do not fit are refused instead of invented."""
    quiet_transformers()  # what it would print (bars, a colored table) is judged below instead
    try:
        if renamed_in("config.json", Path(folder) / "config.json"):
            kwargs["config"] = read_config(folder, **kwargs)
        model, report = family.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, **kwargs
        )
    except ScmfError:
        raise
    except Exception as error:  # whatever transformers, safetensors and torch raise for what is damaged
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        raise ModelError(
            f"weights or a configuration that cannot be loaded ({type(error).__name__}: {error})",
            wanted="weights that fit the configuration",
            where=folder,
            fix="copy the folder again, it may be truncated or damaged; or convert the checkpoint anew",
        ) from error
    wrong = {name: sorted(map(str, keys)) for name, keys in report.items() if keys and name.endswith("keys")}
    if kwargs:  # a new head has no weights yet and the pretraining head no place
        wrong = {name: keys for name, keys in wrong.items() if name == "mismatched_keys"}
    if wrong:
        name, keys = next(iter(wrong.items()))
        raise ModelError(
            f"{len(keys)} {name.replace('_', ' ')}, the first {keys[0]}",
            wanted="every weight of the model and no other",
            where=folder,
            fix="convert the checkpoint with `scmf models pull`",
        )
    return model


def load_run_model(folder: Path | str) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint folder, of the folder of a run that holds ``model/``, or of a name.

    A classifier is loaded with its head, any other network as it was pretrained. A name is that of a published model,
    such as ``geneformer@v2-104m``, or of a repository on the Hub. Only built-in classes are used; code inside the
    folder is never run.
    """
    folder = RunFolder.weights_in(find_model(folder).folder)
    _refuse_no_config(folder)
    verify_model(folder)
    _register_family(folder)
    with_head = is_classifier(_saved(folder / "config.json"))
    model = _from_pretrained(AutoModelForSequenceClassification if with_head else AutoModelForPreTraining, folder)
    return model.eval(), _load_tokenizer(folder)


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether weights are those of a cell classifier, by the content of their ``config.json``."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


def class_names(config: Any) -> list[str]:
    """Names of the classes that a classifier tells apart, in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def _register_family(folder: Path) -> None:
    """Import the family that ``config.json`` names: importing it registers it with the Auto classes."""
    note = folder / "config.json"
    kind = str(_saved(note).get("model_type", ""))
    name = kind.removeprefix("scmf_")
    if kind == WrappedModuleConfig.model_type and ":" in (module := str(_saved(note).get("module"))):
        name = module
    elif name not in registry.names("models") and (dotted := _dotted(folder, "model", "architecture")):
        name = dotted
    elif name not in registry.names("models"):
        raise ModelError(
            f"model_type {kind!r}",
            wanted=f"one of {', '.join(f'scmf_{known}' for known in registry.names('models'))}",
            where=note,
            fix="convert the checkpoint with `scmf models pull`",
        )
    registry.resolve("models", name)


def _saved(path: Path) -> dict[str, Any]:
    """A JSON object that was saved with the weights."""
    return read_object(path, kind=ModelError, wanted="one JSON object", fix="restore the file")


def _dotted(folder: Path, section: str, key: str) -> str | None:
    """The ``package.module:Class`` that the run's configuration names; None where it names none or there is no run."""
    run = RunFolder.find(folder)
    name = None if run is None else str(getattr(getattr(run.config, section), key))
    return name if name is not None and ":" in name else None


def _load_tokenizer(folder: Path) -> Any:
    named = {registry.class_name("tokenizers", name): name for name in registry.names("tokenizers")}
    note = folder / "tokenizer_config.json"
    name = _saved(note).get("tokenizer_class") if note.is_file() else None
    name = name if isinstance(name, str) else None
    if isinstance(name, str) and name not in named and (dotted := _dotted(folder, "tokenizer", "strategy")):
        named[name] = dotted
    if name not in named:
        raise ModelError(
            f"tokenizer class {name!r}" if name else "no tokenizer_config.json",
            wanted=f"one of {', '.join(sorted(named))} beside the weights",
            where=folder,
            fix="convert the checkpoint with `scmf models pull`, which saves the tokenizer along",
        )
    try:
        return load_tokenizer(registry.resolve("tokenizers", named[name]), folder)
    except ScmfError:
        raise
    except Exception as error:  # whatever transformers and the strategy raise for what is damaged
        raise ModelError(
            f"a tokenizer that cannot be loaded ({type(error).__name__}: {error})",
            wanted="a whole tokenizer",
            where=folder,
            fix="copy the folder again, it may be truncated or damaged",
        ) from error


def verify_model(folder: Path) -> None:
    """Hold a saved model against its checksums, and against the run that it lies in.

    A model without checksums, saved before there were any, is read with a warning.

    Raises
    ------
    ModelError
        A file was changed, is missing or was added; or the weights belong to another run than ``run.json`` says.
    """
    if strange := other_weights(folder):
        registry.require_trust(", ".join(strange), where=folder)
    run = RunFolder.find(folder)
    fix = "copy the folder again from where it is whole; if you changed it on purpose, remove checksums.json"
    if run is not None:
        fix = f"give the `scmf train --out {run.path}` of this run again, which writes the model anew; or {fix}"
    elif (command := how_to_remake(folder)) is not None:
        fix = f"make it anew: {command}"
    belongs = manifest.verify(folder, fix=fix).get("run")
    if run is not None and belongs is not None and belongs != (identity := run.identity):
        wrong = [key for key in belongs if belongs[key] != identity.get(key)]
        raise ModelError(
            f"weights of {', '.join(f'{key} {belongs[key]}' for key in wrong)}",
            wanted=f"those of {', '.join(f'{key} {identity.get(key)}' for key in wrong)}, as {run.note} says",
            where=folder,
            fix="restore the run.json of these weights, or train this run into a folder of its own",
        )


def _files_of_ours(folder: Path) -> Collection[str] | None:
    """Files of a saved model; of one saved before there were checksums, those that a loader reads."""
    files = by_manifest(folder)
    if files is not None:
        return files
    kind = (peek_object(folder / "config.json") or {}).get("model_type")
    if RunFolder.find(folder) is None or not str(kind).startswith("scmf_"):
        return None
    return [path.name for path in folder.iterdir() if manifest.is_read(path.name)]


def refuse_other_model(folder: Path) -> None:
    """Raise `ModelError` when ``folder`` is there and holds something else than a model that we saved."""
    refuse_replacing(folder, ours=_files_of_ours)


def save_model(model: Any, tokenizer: Any, folder: Path, *, run: Mapping[str, Any] | None = None) -> None:
    """Write weights, configuration, code, tokenizer and their checksums as one folder, whole or not at all.

    Parameters
    ----------
    model, tokenizer
        What is saved.
    folder
        The folder to make; a model that was saved there is replaced, anything else is refused.
    run
        `RunFolder.identity` of the run that made the weights.
    """
    quiet_transformers()
    with new_folder(folder, ours=_files_of_ours, what="saving a model") as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        manifest.seal(part, {} if run is None else {"run": dict(run)})
