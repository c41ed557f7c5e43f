"""How many replicas fit on which nodes."""

import pytest

from cluster.errors import OccultaError
from cluster.placement import Node, Placement

SMALL = Node({"CPU": 3.0, "memory": 8e9}, {"zone": "earth"})
LARGE = Node({"CPU": 16.0, "GPU": 2.0}, {"zone": "moon", "disk": "fast"})


@pytest.mark.parametrize(
    ("placement", "room"),
    [
        (Placement(), 19),
        (Placement(cpus=2), 1 + 8),
        (Placement(cpus=0.5), 6 + 32),
        (Placement(cpus=0.1), 30 + 160),
        (Placement(gpus=1), 2),
        (Placement(gpus=2), 1),
        (Placement(gpus=0.5), 4),
        (Placement(gpus=0.4), 4),  # a replica has parts of one GPU, never of two
        (Placement(gpus=0.1, cpus=0.1), 20),
        (Placement(cpus=5, gpus=0.25), 3),
        (Placement(labels={"zone": "earth"}), 3),
        (Placement(labels={"zone": "moon", "disk": "fast"}), 16),
        (Placement(labels={"zone": "moon", "disk": "slow"}), 0),
        (Placement(cpus=32), 0),
    ],
)
def test_replicas_fit_on_single_nodes(placement, room):
    assert placement.room([SMALL, LARGE]) == room
    placement.check(room, [SMALL, LARGE])
    with pytest.raises(OccultaError):
        placement.check(room + 1, [SMALL, LARGE])


def test_a_refusal_has_both_numbers():
    placement = Placement(cpus=2, gpus=1, labels={"zone": "earth"})
    with pytest.raises(OccultaError) as caught:
        placement.check(4, [SMALL, LARGE])
    assert str(caught.value) == (
        "4 replicas are asked for, each of which needs 2 CPU and 1 GPU of a node with zone=earth; "
        "the cluster has room for 0 (19 CPUs and 2 GPUs on 2 nodes): lower execution.replicas or "
        "what each needs"
    )
