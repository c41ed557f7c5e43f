"""Whether a Ray cluster asks for a token, and which one we have; no Ray needed to know.

Whoever reaches a cluster without a token can run any program on it (CVE-2023-48022).
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import ClusterLostError, OccultaError
from .text import one_line

INSECURE = "OCCULTA_INSECURE"
"""Environment variable that allows clusters without token authentication."""

_SECONDS = 10.0
_METHOD = "/ray.rpc.InternalKVGcsService/InternalKVGet"


def find_token() -> str | None:
    """Look for the token where Ray does; a token file that others may read is closed to them."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = path.read_text().strip()
        if path.stat().st_mode & 0o077:
            # Ray writes it so that everyone on the machine may read it. Secrets that an
            # orchestrator mounts can't be changed, and belong to it.
            with suppress(OSError):
                path.chmod(0o600)
    except OSError:
        return None
    return token or None


def check_access(address: str, ask: Callable[[str, str | None], bool] | None = None) -> bool:
    """Find out whether a cluster asks for a token, and whether ours is the right one.

    Parameters
    ----------
    address : of the head's control service, or with ``http`` in front, of its dashboard
    ask : tells whether the cluster answers a client with this token, or with none

    Returns
    -------
    Whether it asks for a token.

    Raises
    ------
    OccultaError
        If it asks for none and that isn't allowed, or if ours is missing or wrong.
    ClusterLostError
        If nothing answers.
    """
    ask = ask or (_ask_dashboard if address.startswith("http") else _ask_control)
    if ask(address, None):
        if os.environ.get(INSECURE) == "1":
            return False
        raise OccultaError(
            f"the cluster at {address} is open: whoever reaches it can run programs on it; start "
            "it with RAY_AUTH_MODE=token and a token file, or accept that with --insecure"
        )
    token = find_token()
    if token is None:
        raise OccultaError(
            f"the cluster at {address} asks for a token, and there is none here: name the file "
            "that holds it in RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
        )
    if not ask(address, token):
        raise OccultaError(
            f"the cluster at {address} refuses our token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token holds that of another cluster"
        )
    return True


def _ask_control(address: str, token: str | None) -> bool:
    import grpc  # noqa: PLC0415 - comes with Ray, and like it only where a cluster is used

    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_METHOD)(b"", timeout=_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ClusterLostError(
                    f"no Ray cluster answers at {address}: {one_line(str(error.details()))}; check "
                    "the address and that the cluster runs"
                ) from error
    return True


def _ask_dashboard(address: str, token: str | None) -> bool:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address.rstrip('/')}/api/jobs/", headers=headers)
    try:
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return False
        raise ClusterLostError(
            f"{address} answers {error.code}, as no Ray dashboard does: give the address of the "
            "head, with the port of its dashboard (8265) or control service (6379)"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(str(getattr(error, "reason", error)))
        raise ClusterLostError(
            f"no Ray dashboard answers at {address}: {reason}; check the address and that the "
            "cluster runs"
        ) from error
    return True
