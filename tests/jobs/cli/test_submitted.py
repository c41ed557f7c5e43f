"""Jobs on a real head with token authentication, from submission to results."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from cluster.errors import OccultaError
from cluster.pool import SerialPool
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.run.status import read_manifest
from jobs.specs.load import load_job

ROOT = Path(__file__).parents[3]
SIMULATION = {
    "kind": "simulation",
    "name": "survey",
    "preset": "A",
    "objects": 12,
    "shard_objects": 4,
    "output": "survey",
}
CANARY = "canary-" + secrets.token_hex(8)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Head:
    """A Ray head of our own, with its processes in a group of their own."""

    def __init__(self, folder, token):
        self.port, self.dashboard, client, agent, grpc = free_ports(5)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled" if token is None else "token",
            "CANARY_TOKEN": CANARY,
        }
        if token is not None:
            environment["RAY_AUTH_TOKEN_PATH"] = str(token)
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        options = {
            "node-ip-address": "127.0.0.1",
            "port": self.port,
            "dashboard-port": self.dashboard,
            "dashboard-host": "127.0.0.1",
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "dashboard-agent-grpc-port": grpc,
            "num-cpus": 2,
            "temp-dir": folder,
        }
        command += [f"--{name}={value}" for name, value in options.items()]
        self.log = (folder / "head.log").open("w")
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        self.log.close()


def wait_until(true, seconds=180):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.5)


class User:
    """Calls the command, with a token or without."""

    def __init__(self, folder, address, token):
        self.folder, self.address = folder, address
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
        if token is not None:
            self.environment["RAY_AUTH_TOKEN_PATH"] = str(token)

    def __call__(self, *arguments, code=0, address=None):
        command = [sys.executable, "-P", "-m", "jobs.cli", *arguments]
        done = subprocess.run(
            [*command, "--address", address or self.address],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def refused(self, *arguments, code=2):
        error = self(*arguments, code=code)
        assert error.startswith("occulta: "), error
        assert error.count("\n") == 1, error
        return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    (folder / "job.yaml").write_text(yaml.safe_dump(SIMULATION))
    return folder


def started(token):
    with tempfile.TemporaryDirectory(prefix="head-", ignore_cleanup_errors=True) as place:
        head = Head(Path(place), token)
        try:
            from cluster.access import _ask_dashboard
            from cluster.errors import ClusterLostError

            def answers():
                assert head.process.poll() is None, Path(place, "head.log").read_text()
                try:
                    _ask_dashboard(f"http://127.0.0.1:{head.dashboard}", None)
                except ClusterLostError:
                    return False
                return True

            wait_until(answers)
            yield head
        finally:
            head.stop()


@pytest.fixture(scope="module")
def head(folder):
    yield from started(folder / "token")


@pytest.fixture
def user(folder, head):
    return User(folder, f"http://127.0.0.1:{head.dashboard}", folder / "token")


@pytest.mark.slow
def test_a_submitted_job_has_the_results_of_a_local_one(user, folder):
    job_id = user("submit", "job.yaml").strip()
    assert re.fullmatch(r"survey-[0-9a-f]{6}", job_id)
    printed = user("logs", job_id, "-f")
    assert str(folder / "survey") in printed
    (listed,) = json.loads(user("list", "--json"))
    assert listed == {
        "id": job_id,
        "state": "succeeded",
        "run": str(folder / "survey"),
        "exit_code": 0,
    }
    local = execute(plan_job(load_job(folder / "job.yaml", ["output=local"])), SerialPool)
    digests = [read_manifest(run)["results_digest"] for run in (local, folder / "survey")]
    assert digests[0] == digests[1]
    secret = (folder / "token").read_text()
    kept = [path.read_bytes() for path in (folder / "survey").rglob("*") if path.is_file()]
    for text in (*kept, printed.encode(), user("list", "--json").encode()):
        assert secret.encode() not in text
        assert CANARY.encode() not in text


@pytest.mark.slow
def test_names_are_checked_and_used_once(user, head):
    assert "'../../x' is no name of a job" in user.refused(
        "submit", "job.yaml", "--name", "../../x"
    )
    assert "is no name of a job" in user.refused("logs", "../../x")
    assert "the cluster has no such job" in user.refused("logs", "nobody")
    user("submit", "job.yaml", "--name", "twice", "--out", "twice")
    error = user.refused("submit", "job.yaml", "--name", "twice", "--out", "twice")
    assert "--name twice: the cluster has a job of this name already" in error
    user("logs", "twice", "-f")


@pytest.mark.slow
def test_a_job_can_be_stopped_and_resumed(user, folder):
    changes = ["--set", "objects=40000", "--set", "shard_objects=8"]
    user("submit", "job.yaml", "--name", "long", "--out", "long", *changes)
    events = folder / "long/events.jsonl"
    wait_until(lambda: events.exists() and "UnitCommitted" in events.read_text())
    user("stop", "long")
    states = {job["id"]: job["state"] for job in json.loads(user("list", "--json"))}
    assert states["long"] == "stopped"


@pytest.mark.slow
def test_without_the_token_nobody_gets_in(folder, head):
    address = f"http://127.0.0.1:{head.dashboard}"
    wrong = folder / "wrong"
    wrong.write_text("0123456789abcdef" * 4)
    assert "asks for a token" in User(folder, address, None).refused("list")
    assert "refuses our token" in User(folder, address, wrong).refused("submit", "job.yaml")
    control = f"127.0.0.1:{head.port}"
    assert "refuses our token" in User(folder, control, wrong).refused("run", "job.yaml")


@pytest.mark.slow
def test_the_control_service_leads_to_the_dashboard(folder, head):
    user = User(folder, f"127.0.0.1:{head.port}", folder / "token")
    assert isinstance(json.loads(user("list", "--json")), list)


@pytest.mark.slow
def test_an_open_cluster_is_refused_unless_that_is_accepted(folder):
    for head in started(None):
        for address in (f"http://127.0.0.1:{head.dashboard}", f"127.0.0.1:{head.port}"):
            error = User(folder, address, None).refused("list")
            assert "is open: whoever reaches it can run programs on it" in error
        user = User(folder, f"http://127.0.0.1:{head.dashboard}", None)
        user("submit", "job.yaml", "--insecure", "--name", "open", "--out", "open")
        assert str(folder / "open") in user("logs", "open", "-f", "--insecure")


def test_nothing_at_the_address_ends_with_code_8(folder):
    error = User(folder, "http://127.0.0.1:1", None).refused("submit", "job.yaml", code=8)
    assert "no Ray dashboard answers at http://127.0.0.1:1" in error


@pytest.mark.parametrize("name", ["", "../x", "A", "-a", "a" * 64, "a\n", "a b", ".a"])
def test_names_that_could_be_something_else_are_refused(name):
    from cluster.submission import check_name

    with pytest.raises(OccultaError, match="is no name of a job"):
        check_name(name)


def test_attempts_go_on_while_the_reason_may_pass(monkeypatch):
    from cluster import submission

    monkeypatch.setattr(submission, "_DELAYS", (0.0, 0.0))
    answers = [RuntimeError("No available agent to submit job"), ConnectionError("reset"), "done"]
    calls = []

    def ask():
        calls.append(1)
        answer = answers[len(calls) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert submission._again(ask) == "done"
    answers[0] = RuntimeError("status code 500")
    calls.clear()
    with pytest.raises(OccultaError, match="status code 500") as failed:
        submission._again(ask)
    assert (len(calls), failed.value.exit_code) == (1, 8)
