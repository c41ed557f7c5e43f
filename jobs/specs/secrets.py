"""Job files are kept with their results, where many may read: no secret belongs into one."""

from __future__ import annotations

from typing import Any

from cluster.text import has_credentials, is_secret_name

from ..errors import RefusedError


def refuse_secrets(data: Any, where: str, place: str = "") -> None:
    """Refuse text in fields that are named like secrets, and addresses that hold a password.

    A number or a switch is no secret: timm's networks have options such as ``class_token: true``.

    Raises
    ------
    RefusedError
        With the place, and never with the value.
    """
    if isinstance(data, dict):
        for key, value in data.items():
            inner = f"{place}.{key}" if place else str(key)
            if isinstance(value, str) and value and is_secret_name(str(key)):
                raise RefusedError(
                    f"{where}: {inner}: looks like a secret, and a job file is kept with its "
                    "results; remove it here, and give it by an environment variable or a file"
                )
            refuse_secrets(value, where, inner)
    elif isinstance(data, list):
        for number, value in enumerate(data):
            refuse_secrets(value, where, f"{place}[{number}]")
    elif isinstance(data, str) and has_credentials(data):
        raise RefusedError(
            f"{where}: {place}: holds a password or a signature, and a job file is kept with its "
            "results; give the address without it, and the secret by an environment variable"
        )
