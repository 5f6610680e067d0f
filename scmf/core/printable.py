"""Text for a terminal: nothing in a label, a path or a message can move the cursor, change colors or hide words.

Lives here: `printable`. Lives elsewhere: printing (scmf.cli.output, progress), secrets (redact).
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all control characters but tab and line feed
    "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"  # the direction of writing, and other line breaks
    "\ud800-\udfff]"  # bytes of file names that are no text
)


def printable(text: str, *, long: bool = False) -> str:
    r"""``text`` with control characters, and those that turn the direction of writing, as ``\x1b`` and ``\u202e``.

    Parameters
    ----------
    text
        Any text; tabs and line feeds stay.
    long
        Write four digits always, as JSON has it.
    """
    return _CONTROL.sub(lambda found: _escaped(ord(found[0]), long), text)


def _escaped(code: int, long: bool) -> str:
    return f"\\u{code:04x}" if long or code > 255 else f"\\x{code:02x}"
