"""What every section of a YAML file has in common: frozen, no unknown key, the text under a key is its description.

Lives here: the class, the check of a name. Lives elsewhere: the sections (the files beside it), the options of one
choice (options).
"""

from __future__ import annotations

from pydantic import AfterValidator, BaseModel, ConfigDict

from scmf.core import registry
from scmf.core.errors import ConfigError


class Section(BaseModel):
    """Common rules: frozen, no unknown key, the docstring under a key is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def known(kind: str) -> AfterValidator:
    """A validator that takes only names that `scmf.core.registry` knows; an alias becomes what it stands for."""

    def check(name: str) -> str:
        try:
            return registry.check(kind, name)
        except ConfigError as error:
            said = error.fix if "would run" in error.found else f"is unknown: {error.fix}"
            raise ValueError(f"{error.found}{';' if said == error.fix else ''} {said}") from error

    return AfterValidator(check)
