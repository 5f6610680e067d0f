"""Publishing: a checkpoint that stands alone, with its license, its card and its results, on a Hugging Face Hub."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "check": "check_alone",
        "results": "gather",
        "upload": "Repository",
    },
)
