"""``python -m cluster.nodes ADDRESS COUNT``: wait until a cluster has so many nodes."""

from __future__ import annotations

import sys
import time

from .errors import OccultaError
from .ray_cluster import cluster_nodes, ray_cluster

_SECONDS = 300.0


def wait_for_nodes(address: str, count: int, seconds: float = _SECONDS) -> bool:
    """Wait for nodes of a cluster that is just being started; tell whether they all came."""
    end = time.monotonic() + seconds
    while True:
        try:
            with ray_cluster(address, cpus=0):
                while (found := len(cluster_nodes())) < count and time.monotonic() < end:
                    time.sleep(1)
        except OccultaError as error:
            if time.monotonic() > end:
                raise
            sys.stderr.write(f"waiting for the cluster: {error}\n")
            time.sleep(2)
        else:
            return found >= count


if __name__ == "__main__":
    sys.exit(0 if wait_for_nodes(sys.argv[1], int(sys.argv[2])) else 8)
