"""Text from outside (names, messages of libraries), made fit for logs, ledgers and terminals."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

HIDDEN = "[hidden]"
"""Takes the place of a secret."""

_SHORTEST = 8
"""A shorter value of a variable would be found in harmless text, too."""
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:pass(?:word|wd|phrase)?|secrets?|tokens?|credentials?|private[_-]?key|"
    r"api[_-]?key|access[_-]?key|account[_-]?key|secret[_-]?key|session[_-]?key|sas[_-]?key)"
    r"(?:$|[_-]id$)",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s@'\"]*(?=@)")
_IN_QUERY = re.compile(
    r"(?i)((?:X-Amz-(?:Signature|Credential|Security-Token)|sig|signature|access_token|token"
    r"|api_key|password)=)[^&\s'\"]+"
)
_IN_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer |basic )?)[^\s'\",;]+")


def one_line(text: str) -> str:
    """Escape what is not printable: line breaks, control and bidirectional characters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def is_secret_name(name: str) -> bool:
    """Tell whether a field or a variable of this name holds what nobody else may know."""
    return _SECRET_NAME.search(name) is not None


def has_credentials(address: str) -> bool:
    """Tell whether an address holds a user's password or a signature."""
    return redact_addresses(address) != address


def redact_addresses(text: str) -> str:
    """Hide passwords and signatures in addresses and headers."""
    if "@" not in text and "=" not in text and ":" not in text:
        return text
    text = _IN_ADDRESS.sub(HIDDEN, text)
    text = _IN_QUERY.sub(rf"\1{HIDDEN}", text)
    return _IN_HEADER.sub(rf"\1{HIDDEN}", text)


def secrets() -> tuple[str, ...]:
    """Return the values of the environment's secret variables, as they are and as JSON has them."""
    values = [
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and is_secret_name(name)
    ]
    return tuple(form for value in values for form in (value, json.dumps(value)[1:-1]))


def redact(text: str, known: Sequence[str] | None = None) -> str:
    """Hide secrets.

    Parameters
    ----------
    text : what shall be shown
    known : secrets, by default those of the environment; beside them, all in addresses are hidden
    """
    for secret in secrets() if known is None else known:
        text = text.replace(secret, HIDDEN)
    return redact_addresses(text)
