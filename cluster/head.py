"""Whether a Ray cluster is still there, as its driver sees it.

Ray ends a driver's process a minute after it lost the head, with no exception and no message, and a
driver whose own node died may wait for ever. So the driver looks for itself, and ends in order.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from .errors import ClusterLostError

_PULSE_SECONDS = 5.0
_LOST_SECONDS = 25.0
"""How long a cluster may be silent: some heads are restarted and go on."""
_CONNECT_SECONDS = 3.0


class Head:
    """Looks now and then whether the head accepts connections, and knows the driver's node.

    Parameters
    ----------
    address : host and port of the head's control service
    node_lives : asks the head whether the driver's own node lives
    clock : seconds
    """

    def __init__(
        self,
        address: str,
        node_lives: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._node_lives = node_lives
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
                f"the cluster at {self._address} has been gone for {now - self._answered:.0f} s, "
                "its head or this driver's node; what is committed stays: resume when it is back"
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
        return self._node_lives()
