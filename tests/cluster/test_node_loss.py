"""RayPool on two nodes, one of which is switched off; a cluster of its own, for it is damaged."""

import os
import threading
from pathlib import Path

import pytest
from conformance.pools import Bench, wait_until

from cluster.ray_cluster import ray_cluster
from cluster.ray_pool import RayPool


@pytest.fixture
def nodes(monkeypatch):
    """Give a function that switches off one of two nodes, and connect to them."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        with ray_cluster(cluster.address, cpus=2):
            yield lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_run_goes_on_with_the_nodes_that_are_left(nodes, tmp_path):
    # The last share of the first unit is held back until the partials of the others are lost.
    bench = Bench(tmp_path)
    bench.desk.set_ballast(1 << 20)
    first, *others = bench.units(4, shares=5)
    start = first.key.start
    bench.desk.plan_faults(f"partial {start} 4", "stay")

    def switch_off():
        wait_until(lambda: bench.desk.pids(f"partial {start} 4"))
        nodes()
        (bench.desk.folder / "go").touch()

    with RayPool(bench.workload, bench.store, replicas=2) as bench.pool:
        switch = threading.Thread(target=switch_off)
        switch.start()
        receipts = bench.run([first, *others])
        switch.join()
    shares = [len(bench.desk.pids(f"partial {start} {share}")) for share in range(5)]
    assert max(shares) > 1
    assert receipts[str(first.key)].attempt > 1
