"""The manifests of `deploy/`: each field is one of its definition, and the hosts of a training find each other."""

import copy
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from manifests import (
    COMPOSE,
    DEPLOY,
    KSERVE,
    KUBERNETES,
    MANIFESTS,
    SBATCH,
    SBATCH_FIELDS,
    VERTEX,
    Pods,
    check,
    check_fields,
    documents,
    options,
    pods_of,
)

from resnet_keras.training.cluster import PORT, Cluster, find_cluster

FOLDER = DEPLOY / "kubernetes"
JOB, JOBSET, KUBEFLOW = (FOLDER / f"training-{name}.yaml" for name in ("job", "jobset", "kubeflow"))
SERVING, TUNING = FOLDER / "serving.yaml", FOLDER / "tuning.yaml"


def of(value: Any) -> str | None:
    return value.name if isinstance(value, Path) else None


def test_every_file_is_checked() -> None:
    known = {*MANIFESTS, SBATCH, DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.dockerignore"}
    assert {path for path in DEPLOY.rglob("*") if path.is_file()} == known
    assert {JOB, JOBSET, KUBEFLOW, SERVING, TUNING, KSERVE} < set(KUBERNETES)


@pytest.mark.parametrize("path", MANIFESTS, ids=of)
def test_fields_are_those_of_the_definitions(path: Path) -> None:
    for document in documents(path):
        check(document)


def changed(document: Any, place: str, value: Any) -> Any:
    """A copy of a document with something else in one place, such as `spec.template.0.name`."""
    document = copy.deepcopy(document)
    *way, last = [int(name) if name.isdecimal() else name for name in place.split("/")]
    inner = document
    for name in way:
        inner = inner[name]
    inner[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "index", "place", "value"),
    [
        (SERVING, 0, "spec/replica", 2),
        (SERVING, 0, "spec/template/spec/containers/0/ports/0/containerPort", "grpc"),
        (SERVING, 0, "kind", "Deploymint"),
        (SERVING, 2, "spec/metrics/0/resource/target/averageUse", 70),
        (JOB, 1, "spec/podFailurePolicy/rules/0/onPodConditions/0/kind", "DisruptionTarget"),
        (JOB, 1, "spec/completions", "two"),
        (JOBSET, 0, "spec/network/subDomain", "train"),
        (JOBSET, 0, "spec/failurePolicy/maxRestarts", "20"),
        (JOBSET, 0, "spec/replicatedJobs/0/template/spec/template/spec/containers/0/arg", []),
        (KUBEFLOW, 0, "spec/mlPolicy/nodes", 2),
        (KUBEFLOW, 1, "spec/trainer/numNodes", "2"),
        (KUBEFLOW, 1, "spec/trainer/resources", {}),
        (KSERVE, 0, "spec/predictor/model/runtimeVersio", "2.20.0"),
        (KSERVE, 0, "spec/predictor/model/protocolVersion", "v3"),
        (KSERVE, 0, "spec/predictor/minReplicas", "2"),
        (COMPOSE, 0, "services/serving/volume", []),
        (COMPOSE, 0, "services/serving/ports", [8500]),
        (COMPOSE, 0, "services/train/init", "true"),
        (VERTEX, 0, "workerPoolSpecs/0/machineSpec/acceleratorType", "A100"),
        (VERTEX, 0, "workerPoolSpecs/0/containerSpec", {"args": []}),
        (VERTEX, 0, "scheduling", []),
    ],
    ids=of,
)
def test_a_wrong_field_is_found(path: Path, index: int, place: str, value: Any) -> None:
    document = changed(documents(path)[index], place, value)
    with pytest.raises(ValueError, match=r"."):
        check(document)


@pytest.mark.parametrize("path", [JOB, JOBSET, KUBEFLOW], ids=of)
def test_pods_find_each_other_by_their_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = pods_of(path)
    assert len(pods.names) > 1
    for i in range(len(pods.names)):
        assert cluster_of(pods, i, monkeypatch) == (i, tuple(f"{name}:{PORT}" for name in pods.names))
    assert pods.ports == [PORT]


def cluster_of(pods: Pods, index: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, tuple[str, ...]]:
    monkeypatch.setattr(socket, "getfqdn", lambda: pods.names[index])
    found = find_cluster({**pods.environ, "JOB_COMPLETION_INDEX": str(index)})
    assert found
    return found.index, found.hosts


@pytest.mark.parametrize("path", [JOB, TUNING], ids=of)
def test_headless_services_name_the_pods(path: Path) -> None:
    service, *jobs = documents(path)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    named = 0
    for job in jobs:
        template = job["spec"]["template"]
        labels = {
            "batch.kubernetes.io/job-name": job["metadata"]["name"],
            **template.get("metadata", {}).get("labels", {}),
        }
        if "subdomain" in template["spec"]:
            assert template["spec"]["subdomain"] == service["metadata"]["name"]
            assert service["spec"]["selector"].items() <= labels.items()
            named += 1
    assert named


@pytest.mark.parametrize("path", [JOB, JOBSET, KUBEFLOW, TUNING], ids=of)
def test_jobs_are_indexed_and_leave_time_for_a_checkpoint(path: Path) -> None:
    found = [job for document in documents(path) for job in jobs_in(document)]
    assert found
    for job in found:
        assert job["completionMode"] == "Indexed"
        assert job.get("parallelism", 1) == job.get("completions", 1)
        pod = job["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= 60
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def jobs_in(value: Any) -> list[dict[str, Any]]:
    """The specs of the Jobs in a document."""
    if isinstance(value, list):
        return [job for inner in value for job in jobs_in(inner)]
    if not isinstance(value, dict):
        return []
    return [value] if "completionMode" in value else [job for inner in value.values() for job in jobs_in(inner)]


def test_every_claim_is_there() -> None:
    claims = {claim["metadata"]["name"] for claim in documents(FOLDER / "claims.yaml")}
    text = "\n".join(path.read_text() for path in KUBERNETES)
    assert {*re.findall(r"claimName: ([\w-]+)", text), *re.findall(r"pvc://([\w-]+)/", text)} == claims


def test_kubeflow_runs_it_by_plain_ml() -> None:
    runtime, job = documents(KUBEFLOW)
    assert runtime["spec"]["mlPolicy"].keys() == {"numNodes"}  # a framework's name would be that of another plugin
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    assert [one["name"] for one in replicated["template"]["spec"]["template"]["spec"]["containers"]] == ["node"]
    reference = {"apiGroup": "trainer.kubeflow.org", "kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    assert job["spec"]["runtimeRef"] == reference


def test_vertex_has_one_chief() -> None:
    pools = documents(VERTEX)[0]["workerPoolSpecs"]
    counts = [pool["replicaCount"] for pool in pools]
    assert counts[0] == 1
    assert pools[0]["containerSpec"] == pools[1]["containerSpec"]
    kinds = ["chief", "worker"]
    cluster = {kind: [f"pool-{kind}-{i}:2222" for i in range(n)] for kind, n in zip(kinds, counts, strict=True)}
    task = {"type": "worker", "index": 0, "trial": ""}
    found = find_cluster({"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})})
    assert found
    assert (found.size, found.index) == (sum(counts), 1)


def slurm_cluster(text: str) -> Cluster | None:
    """The hosts of a script's tasks, the first of which asks."""
    given = options(text)
    nodes, tasks = int(given["nodes"]), given["ntasks-per-node"]
    step = {"SLURM_STEP_NODELIST": f"n[1-{nodes}]", "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x{nodes})"}
    return find_cluster({**step, "SLURM_PROCID": "0"})


def test_sbatch_options() -> None:
    text = SBATCH.read_text()
    given = options(text)
    assert len(given) == len(re.findall(r"^#SBATCH", text, re.MULTILINE))
    check_fields(given, SBATCH_FIELDS)
    found = slurm_cluster(text)
    assert found
    assert (found.size, found.hosts[-1]) == (4, f"n4:{PORT}")
    for line in ("#SBATCH --node=4", "#SBATCH --signal=180", "#SBATCH --time=1d"):
        with pytest.raises(ValueError, match="no field|is '"):
            check_fields(options(f"{text}\n{line}\n"), SBATCH_FIELDS)
