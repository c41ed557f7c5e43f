"""Whether the head of a Ray cluster still answers.

Ray ends a driver's process a minute after it lost the head: no exception, no message. So the driver
looks for itself, and ends in order before that.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from .errors import ClusterLostError

_PULSE_SECONDS = 5.0
_LOST_SECONDS = 25.0
"""How long a head may be silent: some are restarted and go on."""
_CONNECT_SECONDS = 3.0


class Head:
    """Looks now and then whether the head's control service accepts connections.

    Parameters
    ----------
    address : host and port
    clock : seconds
    """

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._answered = self._looked = clock()

    def check(self) -> None:
        """Look, if the last look is some seconds ago.

        Raises
        ------
        ClusterLostError
            If the head has been silent for long.
        """
        now = self._clock()
        if now - self._looked < _PULSE_SECONDS:
            return
        self._looked = now
        if self._answers():
            self._answered = now
        elif now - self._answered >= _LOST_SECONDS:
            raise ClusterLostError(
                f"the head of the cluster at {self._address} has not answered for "
                f"{now - self._answered:.0f} s; what is committed stays: resume when it is back"
            )

    @property
    def pulse(self) -> float:
        """Seconds after which another look is due."""
        return _PULSE_SECONDS

    def _answers(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError:
            return False
        return True
