"""The hosts of a run, from what starts them: a flag, TF_CONFIG, SLURM, Kubernetes or Open MPI."""

import itertools
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_keras.errors import UsageError, reason

PORT = 12345
"""Of the first process on a machine; that of each further one is one higher."""

HOW = (
    "set TF_CONFIG, give --hosts a:12345,b:12345 with --host-index, or start it by srun, mpirun or an Indexed Job with "
    "a headless service"
)


@dataclass(frozen=True)
class Cluster:
    """The hosts of a run, and which of them this process is.

    Args:
        size: how many there are.
        index: this one's place among them. Host 0 writes the files.
        hosts: their addresses, `HOST:PORT`, in order. Only the first where the others are not known yet.
        source: what named them.
    """

    size: int
    index: int
    hosts: tuple[str, ...]
    source: str

    def tf_config(self, hosts: Sequence[str]) -> str:
        """What TensorFlow reads, for the addresses of all hosts."""
        return json.dumps({"cluster": {"worker": [*hosts]}, "task": {"type": "worker", "index": self.index}})


def find_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that environment variables tell of, None where they tell of none.

    TF_CONFIG comes first, as a scheduler that has variables of its own may set it too. Standard library only.

    Args:
        environ: such as `os.environ`.

    Raises:
        UsageError: for variables that are damaged, or that leave out what is needed.

    Examples:
        >>> found = find_cluster({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        ...                       "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"})
        >>> found.hosts, found.index
        (('n1:12345', 'n2:12345'), 1)
    """
    if environ.get("TF_CONFIG"):
        return _of_tf_config(environ["TF_CONFIG"])
    for name, read in READERS.items():
        if name in environ:
            try:
                return read(environ)
            except KeyError as error:
                raise UsageError(f"{name} is set, but not {error.args[0]}; {HOW}") from error
            except (ValueError, IndexError) as error:
                raise UsageError(f"the hosts that {name} begins to tell of cannot be read: {reason(error)}") from error
    return None


def given_cluster(hosts: str, index: int | None) -> Cluster:
    """That of `--hosts a:12345,b:12345 --host-index 0`. Raises `UsageError` for a wrong flag."""
    names = [name.strip() for name in hosts.split(",")]
    for name in names:
        if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+)(:\d{1,5})?", name):
            raise UsageError(f"--hosts is not like a:12345,b:12345: {name!r} is no HOST:PORT")
    whole = tuple(name if re.search(r":\d+$", name) and not name.endswith("]") else f"{name}:{PORT}" for name in names)
    if len(set(whole)) < len(whole):
        twice = next(name for name in whole if whole.count(name) > 1)
        raise UsageError(f"--hosts names {twice} twice; give each process a port of its own")
    if index is None or not 0 <= index < len(whole):
        raise UsageError(f"--host-index must be 0 to {len(whole) - 1}, this host's place in --hosts, not {index}")
    return Cluster(len(whole), index, whole, "--hosts")


def _of_tf_config(text: str) -> Cluster | None:
    try:
        config: Any = json.loads(text)
        named = config["cluster"]
        workers = workers_in(named)
        hosts = tuple(named[kind][i] for kind, i in workers)
        task: Any = config.get("task", {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f'TF_CONFIG is not like {{"cluster": {{"worker": ["host1:12345", "host2:12345"]}}, "task": {{"type": '
            f'"worker", "index": 0}}}}: {reason(error)}'
        ) from error
    if not workers:
        return None
    own: Any = (task.get("type"), task.get("index")) if isinstance(task, dict) else None
    if own not in workers:
        raise UsageError(f"the task of TF_CONFIG, {own}, is not among its workers: {workers}")
    return Cluster(len(hosts), workers.index(own), hosts, "TF_CONFIG")


def workers_in(cluster: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """Those of a TensorFlow cluster that train, the chief first, as (type, index)."""
    return [(kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, [])))]


def _of_slurm(environ: Mapping[str, str]) -> Cluster:
    # TensorFlow's own resolver sorts the nodes by name, so that rank 1 of n[9-10] gets the address of n9.
    nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
    counts = _tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
    hosts = tuple(f"{node}:{PORT + i}" for node, n in zip(nodes, counts, strict=True) for i in range(n))
    spread = environ.get("SLURM_DISTRIBUTION", "block")
    if len(hosts) > len(nodes) and not spread.startswith("block"):
        raise UsageError(f"srun spreads the tasks by {spread}, so that their nodes cannot be told; use -m block")
    return Cluster(len(hosts), int(environ["SLURM_PROCID"]), hosts, "SLURM")


def expand_nodes(text: str) -> list[str]:
    """The nodes of a SLURM list, in its order: `a[1-2],b` are a1, a2 and b. Raises ValueError for another text."""
    nodes = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        pieces = re.split(r"\[([^\]]*)\]", part)
        choices = [_numbers(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
        nodes += ["".join(chosen) for chosen in itertools.product(*choices)]
    return nodes


def _numbers(text: str) -> list[str]:
    found = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        found += [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]
    return found


def _tasks_per_node(text: str) -> list[int]:
    counts: list[int] = []
    for item in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if not found:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _of_kubernetes(environ: Mapping[str, str]) -> Cluster:
    index, size = int(environ["JOB_COMPLETION_INDEX"]), int(environ["JOB_COMPLETIONS"])
    name = socket.getfqdn()  # such as train-0.train.default.svc.cluster.local
    pod, dot, service = name.partition(".")
    if not dot or not pod.endswith(f"-{index}"):
        raise UsageError(
            f"a pod of an Indexed Job with a headless service is called JOB-{index}.SERVICE, this one {name}; set "
            "subdomain in the pod's template, and make the Service"
        )
    stem = pod.removesuffix(str(index))
    return Cluster(size, index, tuple(f"{stem}{i}.{service}:{PORT}" for i in range(size)), "the Indexed Job")


def _of_open_mpi(environ: Mapping[str, str]) -> Cluster:
    size, index = int(environ["OMPI_COMM_WORLD_SIZE"]), int(environ["OMPI_COMM_WORLD_RANK"])
    if int(environ["OMPI_COMM_WORLD_LOCAL_SIZE"]) == size:
        return Cluster(size, index, tuple(f"127.0.0.1:{PORT + i}" for i in range(size)), "Open MPI")
    # It tells a process where mpirun is, and not where the others are. They are told by rank 0, which mpirun starts on
    # its own machine unless that is not among its hosts.
    head = re.search(r"tcp://([\d.]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    if not head:
        raise UsageError("this Open MPI does not say where rank 0 is; give --hosts, and --host-index of each")
    return Cluster(size, index, (f"{head[1]}:{PORT}",), "Open MPI")


READERS = {
    "SLURM_PROCID": _of_slurm,
    "JOB_COMPLETION_INDEX": _of_kubernetes,
    "OMPI_COMM_WORLD_SIZE": _of_open_mpi,
}
"""By the variable that only a process of theirs has. A shell in an allocation of SLURM has its nodes, and no place."""
