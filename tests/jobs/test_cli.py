"""The command as users call it: a process, its output and its exit code."""

import json
import subprocess
import sys


def occulta(*arguments, cwd):
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_mistakes_end_with_exit_code_2_and_one_line(tmp_path):
    (tmp_path / "job.yaml").write_text("kind: attribution\nnme: x\n")
    for arguments in (["plan", "none.yaml"], ["plan", "job.yaml"], ["status", "x"], ["init", "y"]):
        result = occulta(*arguments, cwd=tmp_path)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert result.stderr.startswith("occulta: ")
        assert result.stderr.count("\n") == 1


def test_init_then_plan_as_json(tmp_path):
    job = occulta("init", "simulation", cwd=tmp_path)
    assert job.returncode == 0
    (tmp_path / "job.yaml").write_text(job.stdout)
    planned = occulta("plan", "job.yaml", "--set", "objects=10", "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert (facts["objects"], facts["units"]) == (10, 1)
    assert not (tmp_path / "runs").exists()


def test_train_and_simulate_run_their_own_kind_only(tmp_path):
    (tmp_path / "job.yaml").write_text(occulta("init", "simulation", cwd=tmp_path).stdout)
    refused = occulta("train", "job.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "job.yaml: kind is simulation, not training; `occulta run` runs any" in refused.stderr
