"""What is secret, and its removal from everything that is written or printed.

Secret are storage options that are not known to be harmless, user and password of an address, the values of its query
(signed links), values under names such as ``password``, and the values of environment variables such as ``HF_TOKEN``.
`hide` and `hide_text` put ``***`` in their place; `left_out` names what a record lacks, so that it can be given again.
Lives elsewhere: paths and the user's name in what others read (shareable), the terminal (printable).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
"""Stands where a secret was."""

OPTIONS = "storage_options"
"""Key of the options of remote stores."""

PLAIN_OPTIONS = frozenset({
    "account_name", "allow_http", "allow_invalid_certificates", "anon", "base_url", "connect_timeout", "endpoint",
    "endpoint_url", "port", "read_timeout", "region", "region_name", "request_payer", "requester_pays",
    "skip_signature", "timeout", "use_ssl", "virtual_hosted_style_request",
})  # fmt: skip
"""Storage options that are no secrets; every other one is taken for one."""

_PLAIN_QUERY = frozenset({
    "alt", "branch", "download", "format", "generation", "raw", "ref", "revision", "version", "versionid",
})  # fmt: skip
"""Parameters of an address that are no secrets."""

_USER_IS_PLACE = frozenset(
    {"abfs", "abfss", "az", "azure", "ftp", "hdfs", "scmf", "scmodelforge", "sftp", "smb", "ssh"}
)
"""Protocols whose addresses name a container or an account before the ``@``; it is kept unless a password is there."""

_NAMES = (
    r"pass(?:word|wd|phrase)|secret|secret[_-]?(?:access[_-]?)?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|"
    r"api[_-]?key|(?:session|sas|auth|access|refresh|bearer|hf|hub|security)[_-]?token|client[_-]?secret|"
    r"private[_-]?key|service[_-]?account[_-]?key|authorization|x[_-](?:amz|goog)[_-](?:signature|credential)"
)
_NAME = re.compile(rf"(?:\w*[._-])?(?:{_NAMES})", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z])((?:{_NAMES})[\"']?\s*(?:=|:(?!//))\s*)(?:(?:Bearer|Basic)\s+)?(\"[^\"]*\"|'[^']*'|[^\s,;&\"'}}\])]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}")
_QUERY = re.compile(
    r"([?&](?:[\w.-]*(?:token|secret|passw|key|sig|signature|credential)[\w.-]*|auth[\w.-]*)=)(?!\*{3})([^&\s\"'<>]+)",
    re.IGNORECASE,
)
_SCHEME = r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]+:/{1,2}"
_PASSWORD = re.compile(rf"({_SCHEME})[^\s/?#:@]*:[^\s/?#]*@")
_URL = re.compile(rf"{_SCHEME}(?:(?!(?:::|,)[A-Za-z][A-Za-z0-9+.-]+:/)[^\s\"'<>`\\])+")
_ONE_OPTION = re.compile(rf"({OPTIONS}\.([\w-]+)(?:\.[\w-]+)*\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s,]+)")
_ALL_OPTIONS = re.compile(rf"({OPTIONS}[\"']?\s*[=:]\s*)(\{{[^}}]*\}}?|[^\s,]+)")
_VARIABLE = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|KEY_ID|CREDENTIALS?|SAS|SIGNATURE)$")

_remembered: set[str] = set()


# --- which values are secret ----------------------------------------------------------------------


def remember(options: Mapping[str, Any] | None = None, addresses: Iterable[str] = ()) -> None:
    """Take the values of storage options, and user, password and query of addresses, for secrets from now on.

    So they are hidden, too, where a library repeats them in its own words.
    """
    for name, value in (options or {}).items():
        if name not in PLAIN_OPTIONS:
            _remember(value)
    for address in addresses:
        for url in _URL.findall(address):
            _, _, user, _, tail = _parts(url)
            _remember(user.partition(":")[2])
            mark = re.search(r"[?#]", tail)
            for piece in re.split(r"&amp;|[&;?#]", tail[mark.end() :]) if mark else ():
                name, sign, value = piece.partition("=")
                if sign and name.lower() not in _PLAIN_QUERY:
                    _remember(value)


def _remember(value: Any) -> None:
    if isinstance(value, Mapping):
        for inner in value.values():
            _remember(inner)
    elif isinstance(value, str) and _looks_secret(value):
        _remembered.update({value, quote(value, safe="")})


def _looks_secret(value: str) -> bool:
    """Whether a value can be searched for: no plain word or short number, which stand in other texts as well."""
    word = re.fullmatch(r"[a-z]{1,11}|[A-Z]?[a-z]{1,10}|[A-Z]{1,8}|\d{1,7}|true|false", value)
    return len(value) >= 6 and not word and not value.startswith(("/", "~", "./")) and HIDDEN not in value


def _known() -> re.Pattern[str] | None:
    # Every text that is written asks: of variables with harmless names, the value is not read.
    variables = (os.environ[name] for name in os.environ if _names_a_secret(name))
    return _pattern(frozenset([*_remembered, *filter(_looks_secret, variables)]))


@lru_cache(maxsize=4096)
def _names_a_secret(variable: str) -> bool:
    return _VARIABLE.search(variable) is not None


@lru_cache(maxsize=8)
def _pattern(values: frozenset[str]) -> re.Pattern[str] | None:
    if not values:
        return None
    longest_first = sorted(values, key=lambda value: (-len(value), value))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")


# --- texts ----------------------------------------------------------------------------------------


def hide_text(text: str) -> str:
    """A message, or the text of an exception, without secrets."""
    text = _plain(text)
    text = _ONE_OPTION.sub(lambda m: m[0] if m[2] in PLAIN_OPTIONS else m[1] + HIDDEN, text)
    text = _ALL_OPTIONS.sub(lambda m: m[1] + HIDDEN, text)
    text = _ASSIGNED.sub(lambda m: m[1] + HIDDEN, text)
    return _BEARER.sub(lambda m: f"{m[1]} {HIDDEN}", _QUERY.sub(lambda m: m[1] + HIDDEN, text))


def hide_address(address: str) -> str:
    """An address, or a text with addresses, without user, password and query."""
    if ":/" not in address:
        return address
    return _URL.sub(lambda m: _without_credentials(m[0]), _PASSWORD.sub(rf"\1{HIDDEN}@", address))


def file_name(address: str) -> str:
    """The last part of a path or an address: no folders, no credentials, no query."""
    bare = re.split(r"[?#]", address, maxsplit=1)[0] if "://" in address else address
    return re.split(r"[\\/]", bare.rstrip("\\/"))[-1]


def hide_override(text: str) -> str:
    """``section.key=value`` without the value where it is secret."""
    key, sign, value = text.partition("=")
    if not sign:
        return hide_text(text)
    path = key.strip().split(".")
    if OPTIONS in path:
        option = path[path.index(OPTIONS) + 1 :]
        return f"{key}={_plain(value) if option and option[0] in PLAIN_OPTIONS else HIDDEN}"
    if OPTIONS in value or _NAME.fullmatch(path[-1]):
        return f"{key}={HIDDEN}"
    return f"{key}={_plain(value)}"


def hide_command(words: Sequence[str]) -> list[str]:
    """The words of a command line without secrets."""
    shown: list[str] = []
    for word in words:
        before = shown[-1] if shown else ""
        if before == "--token" or (before.startswith("-") and _NAME.fullmatch(before.lstrip("-"))):
            shown.append(HIDDEN)
            continue
        option, sign, rest = word.partition("=")
        if option.startswith("--") and "=" in rest:  # --set=section.key=value
            shown.append(f"{option}={hide_override(rest)}")
        else:
            shown.append(hide_override(word) if sign and "://" not in option else _plain(word))
    return shown


def _hide_command_line(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        return hide_text(text)
    shown = hide_command(words)
    return text if shown == words else shlex.join(shown)


def _plain(text: str, *, known: bool = True) -> str:
    """``text`` without credentials in addresses and without values that are known to be secret."""
    text = hide_address(text)
    pattern = _known() if known else None
    return pattern.sub(HIDDEN, text) if pattern is not None else text


def _parts(url: str) -> tuple[str, str, str, str, str]:
    """Scheme with its colon, slashes, user and password, host, and what follows."""
    scheme, slashes, rest = re.fullmatch(r"([^:]+:)(/+)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    end = re.search(r"[/?#]", rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    user, at, host = authority.rpartition("@")
    port = authority.rpartition(":")[2]
    if not at and ":" in authority and not authority.startswith("[") and not port.isdigit() and "@" in tail:
        user, _, rest = rest.rpartition("@")  # a password with a slash, a question mark or a number sign
        end = re.search(r"[/?#]", rest)
        host, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    return scheme, slashes, user, host, tail


def _without_credentials(url: str) -> str:
    if url[-1] in ")]}" and url.count(url[-1]) > url.count("([{"[")]}".index(url[-1])]):  # of the text around it
        return _without_credentials(url[:-1]) + url[-1]
    scheme, slashes, user, host, tail = _parts(url)
    if user and (":" in user or scheme[:-1].lower() not in _USER_IS_PLACE):
        user = HIDDEN
    mark = re.search(r"[?#]", tail)
    path, query = (tail[: mark.start()], tail[mark.start() :]) if mark else (tail, "")
    shown, separator = "", ""
    for piece in re.split(r"(&amp;|[&;?#])", query):
        if re.fullmatch(r"&amp;|[&;?#]", piece):
            separator = piece
        else:
            name, sign, value = piece.partition("=")
            if sign and value and name.lower() not in _PLAIN_QUERY:
                piece = f"{name}={HIDDEN}"
            elif piece and not sign and separator != "#":
                piece = HIDDEN
        shown += piece
    return f"{scheme}{slashes}{user}{'@' if user else ''}{host}{path}{shown}"


# --- JSON values ----------------------------------------------------------------------------------


def hide(value: Any, *, key: str = "", known: bool = True) -> Any:
    """A JSON value without secrets.

    Parameters
    ----------
    value
        Dicts, lists and scalars. Of storage options only harmless ones stay; what stands under a name such as
        ``password``, and credentials in addresses, become ``***``.
    key
        The name that the value stands under.
    known
        Look for the values of environment variables and of options that were given, too. Without it the answer depends
        on the value alone.
    """
    if isinstance(value, Mapping):
        kept = value.items()
        if key == OPTIONS:
            kept = {name: item for name, item in value.items() if name in PLAIN_OPTIONS}.items()
        return {name: hide(item, key=str(name), known=known) for name, item in kept}
    if isinstance(value, list | tuple):
        return [hide(item, key=key, known=known) for item in value]
    if not isinstance(value, str) or not value:
        return value
    if _NAME.fullmatch(key):
        return HIDDEN
    if key == "command":
        return _hide_command_line(value)
    if OPTIONS in value and "=" in value and known:
        return hide_override(value) if re.match(r"[\w.-]+=", value) else hide_text(value)
    return _plain(value, known=known)


def left_out(value: Any, *, where: str = "") -> list[str]:
    """Dotted keys of what `hide` takes out of a JSON value, sorted by their place."""
    if isinstance(value, Mapping):
        found: list[str] = []
        for name, item in value.items():
            place = f"{where}.{name}" if where else str(name)
            if where.rpartition(".")[2] == OPTIONS and name not in PLAIN_OPTIONS:
                found.append(place)
            else:
                found += left_out(item, where=place)
        return found
    if isinstance(value, list | tuple):
        return [place for item in value for place in dict.fromkeys(left_out(item, where=where))][:1]
    if isinstance(value, str) and value and hide(value, key=where.rpartition(".")[2]) != value:
        return [where]
    return []


def is_incomplete(address: str) -> bool:
    """Whether `hide_address` took something out of an address, so that it cannot be opened."""
    return HIDDEN in address and any(HIDDEN in url for url in _URL.findall(address))
