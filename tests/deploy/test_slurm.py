"""The Slurm script, really run: `srun` and `scontrol` are stand-ins, everything else is real."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cluster.pool import SerialPool
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.run.status import read_manifest, read_status
from jobs.specs.load import load_job

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "cluster/deploy"
SRUN = """#!/bin/bash
echo "$*" >> "$STEPS"
while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
printf 'here\\nthere\\n'
"""
JOB = {
    "kind": "simulation",
    "name": "survey",
    "preset": "A",
    "objects": 12,
    "shard_objects": 4,
    "output": "survey",
}


@pytest.fixture
def slurm(tmp_path):
    """Start the script in an allocation of two nodes, both of which are this machine."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))}
    paths = [tmp_path / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    environment = kept | {
        "PATH": os.pathsep.join(map(str, paths)),
        "PYTHONPATH": str(ROOT),
        "STEPS": str(tmp_path / "steps"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "here,there",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    started = []

    def start(*arguments):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                ["bash", SCRIPTS / "slurm.sh", *arguments],
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cleaned_up(folder):
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".occulta")]


@pytest.mark.slow
def test_the_script_brings_up_a_cluster_and_runs_the_job(slurm, tmp_path):
    process = slurm("job.yaml")
    assert process.wait(400) == 0, (tmp_path / "log").read_text()
    assert read_status(tmp_path / "survey").state == "complete"
    local = execute(plan_job(load_job(tmp_path / "job.yaml", ["output=local"])), SerialPool)
    digests = [read_manifest(run)["results_digest"] for run in (local, tmp_path / "survey")]
    assert digests[0] == digests[1]
    steps = (tmp_path / "steps").read_text()
    assert "--exclude=here bash" in steps
    cleaned_up(tmp_path)


@pytest.mark.slow
def test_the_exit_code_of_the_command_is_that_of_the_script(slurm, tmp_path):
    process = slurm("job.yaml", "--set", "objcts=3")
    assert process.wait(400) == 2, (tmp_path / "log").read_text()
    assert "objcts: unknown field; did you mean 'objects'?" in (tmp_path / "log").read_text()
    cleaned_up(tmp_path)


@pytest.mark.slow
def test_a_job_that_slurm_ends_can_be_resumed(slurm, tmp_path):
    process = slurm("job.yaml", "--set", "objects=40000", "--set", "shard_objects=8")
    events = tmp_path / "survey/events.jsonl"
    end = time.monotonic() + 300
    while not (events.exists() and "UnitCommitted" in events.read_text()):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, "it never began"
        time.sleep(0.5)
    process.terminate()
    assert process.wait(100) == 143, (tmp_path / "log").read_text()
    assert read_status(tmp_path / "survey").state in ("stopped", "interrupted")
    cleaned_up(tmp_path)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash_and_take_their_ports_from_the_job(script):
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "SLURM_JOB_ID %" in text
    assert "RAY_AUTH_MODE=token" in text
