"""The manifest and the Dockerfile, by their structure: there is no cluster and no engine here."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster/deploy"

# Fields of RayJob in ray.io/v1 of KubeRay 1.5.
RAY_JOB = {
    "entrypoint",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "backoffLimit",
    "rayClusterSpec",
}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


@pytest.fixture(scope="module")
def spec():
    manifest = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    return manifest["spec"]


def pods(spec):
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_manifest_has_the_fields_of_a_ray_job(spec):
    assert spec.keys() <= RAY_JOB
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == CLUSTER
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    assert all(group.keys() == WORKERS for group in cluster["workerGroupSpecs"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_manifest_asks_for_a_token_and_for_no_rights(spec):
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for pod in pods(spec):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def test_every_pod_sees_the_same_volumes(spec):
    first, *others = (
        [*pod["volumes"], *pod["containers"][0]["volumeMounts"]] for pod in pods(spec)
    )
    assert all(other == first for other in others)
    for pod in pods(spec):
        names = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == names


def test_the_manifest_has_the_ray_that_occulta_is_tested_with(spec):
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert spec["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_the_image_runs_as_nobody_special_and_is_made_of_what_there_is():
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    users = [i for i, (word, _) in enumerate(steps) if word == "USER"]
    assert users[-1] > last
    assert steps[users[-1]][1] == "10001:10001"
    assert not any(word == "ADD" or (word == "ARG") for word, _ in steps)
    sources = [
        source
        for word, rest in steps
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert {"attribution", "cluster", "jobs", "training"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} <= set(allowed)
