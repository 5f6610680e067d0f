"""Cell classification: the batch as it is, one prediction a cell."""

import numpy as np
import torch

from scmf.training.objectives.cell_classification import CellClassification


def test_classification_passes_the_batch_through():
    made = {"input_ids": torch.ones(3, 2), "labels": torch.tensor([0, 1, 1])}
    task = CellClassification()
    assert task.prepare(made, torch.Generator()) is made
    assert task.predictions(made) == 3
    assert np.isscalar(task.predictions(made))
