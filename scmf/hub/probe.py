"""Load a checkpoint folder with transformers alone and embed a few cells: a program of its own.

Started by `scmf.hub.check` in a fresh interpreter (``python -I probe.py FOLDER``), where every import of scmf fails:
what works here works for whoever downloads the folder. The last line of stdout is one JSON object with what was seen.
Lives elsewhere: what is made of a failure (check).
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from collections.abc import Sequence
from typing import Any

N_CELLS = 4
MAX_GENES = 500
TOLERANCE = 1e-5


class WithoutScmf(importlib.abc.MetaPathFinder):
    """Refuses every import of scmf, even where it is installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Raise ImportError for scmf; leave all else to the other finders."""
        if fullname.partition(".")[0] == "scmf":
            raise ImportError(f"{fullname} is imported, and a checkpoint has to load without scmf")


def probe(folder: str) -> dict[str, Any]:
    """Load tokenizer and model of ``folder`` by the auto classes, and embed cells of its genes.

    Returns
    -------
    dict
        Names of the classes, number of parameters, width of the embedding, sizes of the tokenizer.

    Raises
    ------
    ValueError
        If something is missing, does not fit, or is not a number.
    """
    import numpy as np
    import scipy.sparse as sp
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    classes: dict[str, str] = getattr(config, "auto_map", None) or {}
    written = (config.architectures or ["?"])[0]
    auto = [name for name, place in sorted(classes.items()) if place.rpartition(".")[2] == written]
    if not auto or "AutoModel" not in classes:
        raise ValueError(f"auto_map of config.json has no AutoModel or no class for the weights of {written}")
    model, report = getattr(transformers, auto[-1]).from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    for kind, keys in report.items():
        if keys and kind.endswith("keys"):
            raise ValueError(f"{len(keys)} {kind.replace('_', ' ')}, the first {min(map(str, keys))}")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or inf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    special = set(tokenizer.all_special_tokens)
    genes = [token for token in tokenizer.get_vocab() if token not in special and not token.startswith("<")]
    genes = sorted(genes)[:MAX_GENES]
    counts = np.random.default_rng(0).poisson(2.0, size=(N_CELLS, len(genes))).astype(np.float32)
    counts[:, :1] += 1  # no cell is empty
    batch = dict(tokenizer(sp.csr_matrix(counts), genes, return_tensors="pt"))
    if columns := tokenizer.obs_columns:
        tensors = tokenizer.cell_tensors({column: ["unknown"] * N_CELLS for column in columns})
        batch |= {name: torch.from_numpy(value) for name, value in tensors.items()}
    if getattr(config, "embeds_by_batch", False):  # the first of the batches it was trained on
        batch["batch_ids"] = torch.zeros(N_CELLS, dtype=torch.long)
    x_ND = model.embed(**batch)
    if x_ND.ndim != 2 or len(x_ND) != N_CELLS or not torch.isfinite(x_ND).all():
        raise ValueError(f"embed gives {tuple(x_ND.shape)} with NaN or inf, or another shape than one vector a cell")
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    if not torch.allclose(base.embed(**batch), x_ND, rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"AutoModel and {auto[-1]} embed the same cells differently")
    return {
        "auto_class": auto[-1],
        "class": written,
        "dtype": str(model.dtype).removeprefix("torch."),
        "embedding_dim": x_ND.shape[1],
        "genes": len(tokenizer.get_vocab()) - len(special),
        "max_length": int(tokenizer.max_length),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer": type(tokenizer).__name__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    sys.meta_path.insert(0, WithoutScmf())
    sys.stdout.write(json.dumps(probe(sys.argv[1])) + "\n")
