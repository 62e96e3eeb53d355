"""What a benchmark ran on: processor, cores, versions, variables. Standard library only."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Features of CPUs that TensorFlow's kernels use, as Linux names them."""
PACKAGES = ("resnet-keras", "tensorflow", "keras", "numpy")
VARIABLES = re.compile(
    r"TF_(NUM|ENABLE|DISABLE|ONEDNN|XLA|GPU|CUDNN|FORCE|USE)\w*|(ONEDNN|DNNL|OMP|KMP|XLA|MALLOC)_\w+|CUDA_VISIBLE_DEVICES"
)
"""Variables of the environment that change how fast TensorFlow is."""


def cpu_flags() -> list[str]:
    """Which of `FLAGS` this machine's CPU has; none where nothing says so."""
    if line := _line_of_cpuinfo(r"flags|Features"):
        return [flag for flag in FLAGS if flag in line.split()]
    return []


def cpu_name() -> str:
    """The model of this machine's CPU."""
    return _line_of_cpuinfo("model name") or platform.processor() or platform.machine()


def _line_of_cpuinfo(names: str) -> str | None:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        if found := re.search(rf"^(?:{names})\s*:\s*(.*)$", text, re.MULTILINE):
            return found[1]
    return None


def usable_cores() -> list[int]:
    """The logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the checkout that this package is in, with "+" where files have changed; None outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() or None
    return None


def this_machine() -> dict[str, Any]:
    """Processor, its features, cores, system, versions, variables and load, as JSON."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_name(),
        "flags": cpu_flags(),
        "cores": len(usable_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "commit": git_commit(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)},
        "load": None if load is None else round(load, 2),
    }


def is_same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two reports are of one kind of machine: processor, its features and cores."""
    return all(one.get(name) == other.get(name) for name in ("cpu", "flags", "cores"))


def machine_words(machine: Mapping[str, Any]) -> str:
    """The same in a line or two of prose."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    commit = f", commit {machine['commit']}" if machine.get("commit") else ""
    variables = "".join(f", {name}={value}" for name, value in machine["variables"].items())
    flags = " ".join(machine["flags"]) or "features unknown"
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['system']}; load {machine['load']} before it "
        f"began; Python {machine['python']}, {versions}{commit}{variables}"
    )
