"""The files of `deploy/` as the tests read them: their documents, schemas, images and commands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import yaml
from kubeflow_trainer_api import models

import resnet_keras as rk

ROOT = Path(rk.__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE, KSERVE = DEPLOY / "compose.yaml", DEPLOY / "kubernetes" / "kserve.yaml"
VERTEX, SBATCH = DEPLOY / "vertex" / "train.yaml", DEPLOY / "slurm" / "train.sbatch"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
MANIFESTS = [COMPOSE, *KUBERNETES, VERTEX]

MODELS: dict[tuple[str, str], Any] = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): models.JobsetV1alpha2JobSet,
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): models.TrainerV1alpha1TrainingRuntime,
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): models.TrainerV1alpha1TrainJob,
}
"""Custom resources that Kubeflow's package of Trainer's API defines."""

# What follows are the fields that our files use, and no others, from the definitions that are named. `!` is behind the
# name of a field that must be there, `*` stands for any name.
TEXT, WHOLE, FLAG = str, int, bool
WORDS = [str]
AMOUNTS = {"cpu": TEXT, "memory": TEXT}
DURATION = re.compile(r"\d+s")

COMPOSE_FIELDS = {
    # github.com/compose-spec/compose-spec, schema/compose-spec.json, 170098ba
    "services!": {
        "*": {
            "image!": TEXT,
            "build": {"context": TEXT, "dockerfile": TEXT, "target": TEXT},
            "command": WORDS,
            "entrypoint": WORDS,
            "healthcheck": {
                "test!": WORDS,
                "interval": DURATION,
                "timeout": DURATION,
                "retries": WHOLE,
                "start_period": DURATION,
            },
            "init": FLAG,
            "ports": [re.compile(r"\d+:\d+")],
            "profiles": WORDS,
            "restart": {"no", "always", "on-failure", "unless-stopped"},
            "stop_grace_period": DURATION,
            "user": TEXT,
            "volumes": [re.compile(r"\.\./\w+:/[\w/]+(:ro)?")],
        }
    }
}
KSERVE_FIELDS = {
    # github.com/kserve/kserve, config/crd/full, serving.kserve.io_inferenceservices.yaml, v1beta1, aaac4e29
    "apiVersion!": {"serving.kserve.io/v1beta1"},
    "kind!": {"InferenceService"},
    "metadata!": {"name!": TEXT},
    "spec!": {
        "predictor!": {
            "minReplicas": WHOLE,
            "maxReplicas": WHOLE,
            "model!": {
                "modelFormat!": {"name!": {"tensorflow"}, "version": {"1", "2"}},  # kserve-tensorflow-serving.yaml
                "protocolVersion": {"v1", "grpc-v1"},
                "runtime": {"kserve-tensorflow-serving"},
                "runtimeVersion!": TEXT,
                "storageUri!": re.compile(r"pvc://[\w-]+/\w+"),
                "resources": {"requests": AMOUNTS, "limits": AMOUNTS},
            },
        }
    },
}
VERTEX_FIELDS = {
    # google-cloud-aiplatform 2.7.0, aiplatform_v1/types: custom_job.py, machine_resources.py, accelerator_type.py
    "workerPoolSpecs!": [
        {
            "replicaCount!": WHOLE,
            "machineSpec!": {
                "machineType!": TEXT,
                "acceleratorType": {"NVIDIA_TESLA_T4", "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_L4"},
                "acceleratorCount": WHOLE,
            },
            "diskSpec": {"bootDiskType": {"pd-ssd", "pd-standard"}, "bootDiskSizeGb": WHOLE},
            "containerSpec!": {"imageUri!": TEXT, "args": WORDS},
        }
    ],
    "scheduling": {"restartJobOnWorkerRestart": FLAG},
}
SBATCH_FIELDS = {
    # The manual of sbatch, SLURM 22.05 and later
    "job-name": re.compile(r"\w+"),
    "nodes": re.compile(r"\d+"),
    "ntasks-per-node": re.compile(r"\d+"),
    "gpus-per-node": re.compile(r"\d+"),
    "cpus-per-task": re.compile(r"\d+"),
    "time": re.compile(r"\d+:\d\d:\d\d"),
    "requeue": {""},
    "open-mode": {"append", "truncate"},
    "signal": re.compile(r"(B:)?[A-Z]+@\d+"),
}


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [*yaml.safe_load_all(path.read_text("utf-8"))]


def options(text: str) -> dict[str, str]:
    """The `#SBATCH` lines of a script."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, re.MULTILINE))


def check(document: dict[str, Any]) -> None:
    """Check a manifest against the definition of its kind. Raises ValueError for a field or value that is not in it."""
    kind = str(document.get("apiVersion")), str(document.get("kind"))
    if kind in MODELS:
        # The model drops what it does not know.
        _check_kept(document, MODELS[kind].from_dict(document).to_dict(), "")
    elif kind[1] == "InferenceService":
        check_fields(document, KSERVE_FIELDS)
    elif "apiVersion" in document:
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            raise ValueError(error.message) from error
    else:
        check_fields(document, COMPOSE_FIELDS if "services" in document else VERTEX_FIELDS)


def _check_kept(value: Any, kept: Any, where: str) -> None:
    if isinstance(value, dict) and isinstance(kept, dict):
        for name, inner in value.items():
            if name not in kept:
                raise ValueError(f"there is no field {where}.{name}")
            _check_kept(inner, kept[name], f"{where}.{name}")
    elif isinstance(value, list) and isinstance(kept, list):
        for i, (inner, other) in enumerate(zip(value, kept, strict=True)):
            _check_kept(inner, other, f"{where}[{i}]")
    elif value != kept:
        raise ValueError(f"{where} is {value!r}, and is read as {kept!r}")


def check_fields(value: Any, fields: Any, where: str = "") -> None:
    """Check a value by a table of fields. Raises ValueError for one that is missing, unknown or of another type."""
    if isinstance(fields, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where} has no fields: {value!r}")
        known = {name.rstrip("!"): inner for name, inner in fields.items()}
        missing = {name[:-1] for name in fields if name.endswith("!")} - set(value)
        if missing:
            raise ValueError(f"{where} has no {missing}")
        for name, inner in value.items():
            if name not in known and "*" not in known:
                raise ValueError(f"there is no field {where}.{name}")
            check_fields(inner, known.get(name, known.get("*")), f"{where}.{name}")
    elif isinstance(fields, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is no list: {value!r}")
        for i, inner in enumerate(value):
            check_fields(inner, fields[0], f"{where}[{i}]")
    elif isinstance(fields, type):
        if type(value) is not fields:
            raise ValueError(f"{where} is no {fields.__name__}: {value!r}")
    elif not (value in fields if isinstance(fields, set) else isinstance(value, str) and fields.fullmatch(value)):
        raise ValueError(f"{where} is {value!r}")


class Program(NamedTuple):
    """What a container runs."""

    image: str
    """Empty where another document names it."""
    words: list[str]
    """Behind the image's entrypoint, variables with defaults replaced by them."""


def programs(value: Any) -> Iterator[Program]:
    """What the containers of a document run."""
    if isinstance(value, dict):
        words = value.get("args", value.get("command"))
        if isinstance(words, list) and ("args" in value or "image" in value):
            words = [*value.get("entrypoint", [])[1:], *words]
            words = [re.sub(r"\$\{\w+:-(\w*)\}", r"\1", word) for word in words]
            yield Program(value.get("image", value.get("imageUri", "")), words)
        for inner in value.values():
            yield from programs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from programs(inner)


class Pods(NamedTuple):
    """The pods of a training on Kubernetes."""

    names: list[str]
    """Each as it is called in the cluster's DNS."""
    environ: dict[str, str]
    ports: list[int]


def pods_of(path: Path) -> Pods:
    """The pods of a file, by the rules of Indexed Jobs, JobSets and Kubeflow Trainer."""
    found = {document["kind"]: document for document in documents(path)}
    if "Job" in found:
        name, job = found["Job"]["metadata"]["name"], found["Job"]["spec"]
        stem, subdomain, count = name, job["template"]["spec"].get("subdomain"), job["completions"]
    else:
        name = (found.get("TrainJob") or found["JobSet"])["metadata"]["name"]
        jobs = found["TrainingRuntime"]["spec"]["template"]["spec"] if "TrainJob" in found else found["JobSet"]["spec"]
        (replicated,) = jobs["replicatedJobs"]
        job = replicated["template"]["spec"]
        stem, subdomain = f"{name}-{replicated['name']}-0", jobs["network"].get("subdomain", name)
        count = found["TrainJob"]["spec"]["trainer"]["numNodes"] if "TrainJob" in found else job["completions"]
    (container,) = job["template"]["spec"]["containers"]
    given = container.get("env") or found["TrainJob"]["spec"]["trainer"]["env"]
    names = [f"{stem}-{i}.{subdomain}.default.svc.cluster.local" for i in range(count)]
    return Pods(
        names, {one["name"]: one["value"] for one in given}, [one["containerPort"] for one in container["ports"]]
    )
