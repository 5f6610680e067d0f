"""The command line: parse, call one function, print."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "main": "app",
    },
)
