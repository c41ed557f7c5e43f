"""Text from outside (names, messages of libraries), made fit for logs, ledgers and terminals."""

from __future__ import annotations

import json
import os
import re

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


def redact(text: str) -> str:
    """Hide secrets: values of the environment's secret variables, and those in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and is_secret_name(name):
            # A line of JSON holds it escaped.
            text = text.replace(value, HIDDEN).replace(json.dumps(value)[1:-1], HIDDEN)
    return redact_addresses(text)
