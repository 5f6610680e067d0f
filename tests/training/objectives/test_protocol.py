"""Every objective that has a name offers what the loop asks of one."""

from __future__ import annotations

import inspect

import pytest

from scmf.core import registry
from scmf.training.objectives.protocol import Objective


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_an_objective_offers_the_protocol(name: str) -> None:
    objective = registry.resolve("objectives", name)
    assert inspect.getmodule(objective).__name__.startswith("scmf.training.objectives.")  # type: ignore[union-attr]
    for method in ("from_settings", "at", "prepare", "predictions"):
        wanted, found = (inspect.signature(getattr(owner, method)) for owner in (Objective, objective))
        assert list(wanted.parameters) == list(found.parameters), method
    assert objective.name == name
    assert hasattr(objective, "definition")
