"""What every section of a YAML file has in common: frozen, no unknown key, the text under a key is its description.

Lives here: the class and the check of a name. Lives elsewhere: the sections (config, config_data).
"""

from __future__ import annotations

from pydantic import AfterValidator, BaseModel, ConfigDict

from scmf import plugins
from scmf.errors import ConfigError


class Section(BaseModel):
    """Common rules: frozen, no unknown key, the docstring under a key is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def known(kind: str) -> AfterValidator:
    """A validator that takes only names that `scmf.plugins` knows."""

    def check(name: str) -> str:
        try:
            return plugins.check(kind, name)
        except ConfigError as error:
            raise ValueError(f"{error.found} is unknown: {error.fix}") from error

    return AfterValidator(check)
