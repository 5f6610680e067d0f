"""Which epoch of a training run is kept: the one with the lowest validation loss, and when to stop looking.

    selection.json            epochs that were evaluated, their losses, the sums of the weights that are kept
    best-00000120.safetensors weights after step 120

Both are written before the checkpoint of the same epoch, so that a run that is killed and resumed keeps what an
uninterrupted one keeps: weights of the best epoch before stay until the next evaluation. Lives elsewhere: the loss
(validation), when it is measured (loop).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from scmf.core.errors import TrainingError
from scmf.core.files import atomic_path, peek_object, sha256_file, write_json

LOSS = "valid_loss"
"""Name of the value that is compared."""


@dataclass
class BestEpoch:
    """Keeps the weights of the epoch with the lowest validation loss; of equal ones the earliest.

    Parameters
    ----------
    folder
        Where they are kept.
    patience
        Epochs without a lower loss after which training ends.
    """

    folder: Path
    patience: int

    def __post_init__(self) -> None:
        self._epochs: list[dict[str, Any]] = []

    @property
    def _note(self) -> Path:
        return self.folder / "selection.json"

    def resume(self, step: int) -> bool:
        """Take up what was known at ``step``; whether training had ended by then."""
        found = (peek_object(self._note) or {}).get("epochs")
        known = found if isinstance(found, list) else []
        self._epochs = [one for one in known if isinstance(one, dict) and one.get("step", math.inf) <= step]
        return self.ended

    def evaluated(self, model: Any, epoch: int, step: int, values: dict[str, float]) -> bool:
        """Note the loss of an epoch and keep the weights if it is the lowest; whether training is to end."""
        before = self.best
        loss = values[LOSS]
        now: dict[str, Any] = {"epoch": epoch, "step": step, LOSS: loss if math.isfinite(loss) else None}
        self._epochs.append(now)
        if self.best is now:
            file = self._file(now)
            with atomic_path(file) as temporary:
                save_model(model, str(temporary), metadata={"format": "pt"})
            now["sha256"] = sha256_file(file)
        write_json(self._note, {"epochs": self._epochs})
        keep = {self._file(one).name for one in (before, self.best) if one is not None}
        for path in self.folder.glob("best-*.safetensors"):
            if path.name not in keep:
                path.unlink()
        return self.ended

    @property
    def best(self) -> dict[str, Any] | None:
        """Epoch, step and loss of the best; None before the first evaluation."""
        order = [(math.inf if one[LOSS] is None else one[LOSS], i) for i, one in enumerate(self._epochs)]
        return self._epochs[min(order)[1]] if order else None

    @property
    def ended(self) -> bool:
        """Whether the loss has not fallen for ``patience`` evaluations."""
        best = self.best
        return best is not None and len(self._epochs) - 1 - self._epochs.index(best) >= self.patience

    def load(self, model: Any) -> None:
        """Give ``model`` the weights of the best epoch; `TrainingError` where they are not as they were written."""
        best = self.best
        if best is None:
            return
        file = self._file(best)
        if not file.is_file() or sha256_file(file) != best.get("sha256"):
            raise TrainingError(
                "no weights of the best epoch" if not file.is_file() else "weights that were changed",
                wanted=f"those of epoch {best['epoch'] + 1}, as they were written", where=file,
                fix="choose another --out, to train from the start",
            )  # fmt: skip
        load_model(model, file, device=str(next(model.parameters()).device))

    def rule(self, *, n_cells: int, max_epochs: int) -> dict[str, Any]:
        """How the weights were chosen, for the result."""
        best = self.best
        if best is None:
            return last_epoch("nothing was evaluated")
        return {
            "rule": f"lowest validation loss, of {n_cells:,} cells",
            "epoch": best["epoch"] + 1, "epochs": len(self._epochs), LOSS: best[LOSS],
            "stopped_early": self.ended and len(self._epochs) < max_epochs,
        }  # fmt: skip

    def _file(self, one: dict[str, Any]) -> Path:
        return self.folder / f"best-{one['step']:08d}.safetensors"


def last_epoch(why: str) -> dict[str, Any]:
    """The rule where no epoch is chosen."""
    return {"rule": f"last epoch: {why}"}
