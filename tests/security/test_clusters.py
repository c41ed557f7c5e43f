"""Nobody without the token reaches a cluster of ours, and ours goes to no open cluster."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cluster.access import check_access, find_token
from cluster.errors import ClusterLostError, OccultaError

SECRET = "0123456789abcdef" * 4


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return the home of a user who has no token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "OCCULTA_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_looked_for_where_ray_does(home, monkeypatch):
    assert find_token() is None
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("of the home\n")
    assert find_token() == "of the home"
    (home / "mine").write_text("of a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "mine"))
    assert find_token() == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert find_token() == "of the environment"


def test_a_token_file_is_closed_to_others(home):
    (home / ".ray").mkdir()
    file = home / ".ray/auth_token"
    file.write_text(SECRET)
    file.chmod(0o644)
    find_token()
    assert mode(file) == 0o600


class Service(grpc.GenericRpcHandler):
    """Answers every call that carries its token, as the control service of a head does."""

    def __init__(self, token):
        self.token = token

    def service(self, details):
        header = dict(details.invocation_metadata).get("authorization")

        def answer(_, context):
            if self.token is not None and header != f"Bearer {self.token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is missing or incorrect")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(params=[None, SECRET], ids=["open", "closed"])
def service(request):
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers([Service(request.param)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield request.param, f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_access_is_checked_before_anything_is_sent(home, service, monkeypatch):
    token, address = service
    if token is None:
        with pytest.raises(OccultaError, match=f"cluster at {address} is open: .* --insecure"):
            check_access(address)
        monkeypatch.setenv("OCCULTA_INSECURE", "1")
        assert check_access(address) is False
        return
    with pytest.raises(OccultaError, match=r"asks for a token, and there is none here"):
        check_access(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    with pytest.raises(OccultaError, match="refuses our token") as refused:
        check_access(address)
    assert refused.value.exit_code == 2
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    assert check_access(address) is True


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_where_nothing_listens_there_is_no_cluster(home, scheme):
    with pytest.raises(ClusterLostError, match=r"answers at .*127.0.0.1:1: .*; check the address"):
        check_access(f"{scheme}127.0.0.1:1")


STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
print(ray.get(ray.remote(lambda: "i am in").remote()))
"""
OWNER = """
import json, os, sys
from cluster.ray_cluster import ray, ray_cluster
for _ in range(int(sys.argv[1])):
    with ray_cluster(None, cpus=1):
        assert ray.get(ray.remote(lambda: "i am in").remote(), timeout=100) == "i am in"
        address = ray.get_runtime_context().gcs_address
        socket = ray.nodes()[0]["ObjectStoreSocketName"]
        print(json.dumps([address, os.environ["RAY_AUTH_TOKEN_PATH"], socket]), flush=True)
        input()
"""


@pytest.fixture
def embed(home):
    """Return a function that starts processes with embedded clusters, as a user's driver would."""
    started = []

    def start(clusters=1):
        # A process of its own: Ray's counters would keep its token for the tests that follow.
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(clusters)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


def test_an_embedded_cluster_keeps_to_itself(embed, monkeypatch):
    owner = embed()
    address, path, socket = json.loads(owner.stdout.readline())
    token = Path(path)
    assert token.parent.name.startswith("occulta-")
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert Path(socket).is_relative_to(token.parent)
    with pytest.raises(OccultaError, match="asks for a token"):
        check_access(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    with pytest.raises(OccultaError, match="refuses our token"):
        check_access(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token.read_text())
    assert check_access(address) is True
    owner.stdin.write("\n")
    owner.stdin.flush()
    assert owner.wait(60) == 0
    assert not token.parent.exists()


@pytest.mark.slow
def test_a_stranger_does_not_get_into_an_embedded_cluster(embed, tmp_path):
    """Neither by switching authentication off, nor with the token of another cluster."""
    address, *_ = json.loads(embed().stdout.readline())
    for settings in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": SECRET}):
        stranger = subprocess.run(
            [sys.executable, "-P", "-c", STRANGER, address],
            cwd=tmp_path,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert stranger.returncode != 0
        assert "i am in" not in stranger.stdout


@pytest.mark.slow
def test_a_process_may_have_one_embedded_cluster_after_another(embed):
    owner = embed(2)
    for _ in range(2):
        assert owner.stdout.readline()
        owner.stdin.write("\n")
        owner.stdin.flush()
    assert owner.wait(60) == 0
