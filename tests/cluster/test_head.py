"""Looking for the head of a cluster, with a real socket and a clock of the test's own."""

import socket

import pytest

from cluster.errors import ClusterLostError
from cluster.head import Head


def test_a_head_that_is_silent_for_long_is_lost_and_one_that_comes_back_is_not():
    now = [0.0]
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    node = [True]
    head = Head(f"127.0.0.1:{port}", lambda: node[0], clock=lambda: now[0])

    def look_at(*times):
        for now[0] in times:
            head.check()

    look_at(100.0)
    server.close()
    look_at(104.0)  # too soon: nobody looks
    look_at(110.0, 116.0)
    with socket.create_server(("127.0.0.1", port)):
        node[0] = False
        look_at(122.0)
        node[0] = True
        look_at(128.0, 134.0)
    look_at(140.0, 146.0, 152.0, 158.0)
    with pytest.raises(ClusterLostError, match=rf"cluster at 127.0.0.1:{port} .* gone for 30 s, "):
        look_at(164.0)
