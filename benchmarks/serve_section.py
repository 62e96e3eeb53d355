"""Section `serve`: our server beside the session that it serves, called directly, for few clients and for many."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.once import prepared
from resnet_keras.benchmarks.command import within_limits
from resnet_keras.benchmarks.machine import this_machine, usable_cores
from resnet_keras.benchmarks.pairs import ratio_of
from resnet_keras.benchmarks.report import Report, Row, report_of, rows_of
from resnet_keras.benchmarks.rounds import Effort, Measured, in_turns
from resnet_keras.benchmarks.server_settings import ServerSetting
from resnet_keras.benchmarks.serving import Search, search
from resnet_keras.benchmarks.settings import servable_folder
from resnet_keras.benchmarks.variants import Process, Sample, Variant
from resnet_keras.benchmarks.workers import Worker, workers
from resnet_keras.errors import UsageError
from resnet_keras.serving.process import server_process

MODEL, SIDE, DTYPES, CLIENTS = "resnet50", 224, ("int8", "bfloat16"), (4, 16)
SMALL = "cifar10-jpeg"
"""The model of the package with which `make bench-quick` compares."""
DIRECT = ("direct, as TensorFlow chooses", "direct, a thread a request")
GRPC, REST, PIXELS = "server, gRPC", "server, REST", "server, gRPC, pixels"
WARM_SECONDS = 0.5
NOBODY = Process("resnet_keras serve")


def serve(effort: Effort) -> Report:
    """Direct sessions and a server of each dtype, for each number of clients; then the settings of a small model."""
    machine = this_machine()
    with tempfile.TemporaryDirectory() as folder:
        notes = prepared("benchmarks.files:servables", {"folder": folder, "model": MODEL, "dtypes": list(DTYPES)})
        notes += prepared("benchmarks.files:servables", {"folder": folder, "model": SMALL, "dtypes": ["float32"]})
        (measured, lost), limit = within_limits(lambda: _all(Path(folder), effort))
    if not measured:
        raise UsageError("; ".join([*notes, *lost]))
    rows = rows_of(measured, limit)
    notes = [*notes, *lost, *decoding(rows)]
    return report_of("serve", rows, limit, effort, machine=machine, notes=tuple(notes))


def _all(folder: Path, effort: Effort) -> tuple[list[Measured], list[str]]:
    found: list[Measured] = []
    notes: list[str] = []
    parts: dict[str, Callable[[], list[Measured]]] = {
        group(dtype, clients): partial(_beside, folder / f"{MODEL}-{dtype}", dtype, clients, effort)
        for dtype in DTYPES
        for clients in CLIENTS
    }
    parts[SMALL] = partial(_settings, folder / f"{SMALL}-float32", effort)
    for name, part in parts.items():
        try:
            found += part()
        except (UsageError, RuntimeError) as error:
            notes.append(f"{name} is left out: {error}")
    return found, notes


def group(dtype: str, clients: int) -> str:
    """The group of rows of so many clients."""
    return f"{MODEL} {dtype}, {clients} clients, a JPEG of {SIDE}x{SIDE} each"


def _settings(base: Path, effort: Effort) -> list[Measured]:
    """As `resnet-keras benchmark serve` measures it, under the names that `make bench-quick` has."""
    version = _version(base)
    link = base.parent / "named" / SMALL
    link.parent.mkdir()
    link.symlink_to(base)
    short = Effort(min(effort.pairs, 3), min(effort.seconds, 0.5))
    return list(search(Search(link, version, 4, "rest", short)).measured)


def _beside(base: Path, dtype: str, clients: int, effort: Effort) -> list[Measured]:
    """Sessions and a server of one model take turns; the server has a thread a request, as `DIRECT`'s second."""
    version = _version(base)
    cores = len(usable_cores())
    image = {"height": SIDE, "width": SIDE, "count": clients}
    folder = {"folder": str(version), **image}
    threads = {"intra_op": 1, "inter_op": cores}
    processes = {
        DIRECT[0]: Process("benchmarks.direct:session", folder),
        DIRECT[1]: Process("benchmarks.direct:session", {**folder, **threads}),
        "clients": Process("resnet_keras.benchmarks.load:clients", {**image, "channels": 3}),
        "model": Process("resnet_keras.benchmarks.inference:description", {"folder": str(version)}),
    }
    with workers(processes, {name: name for name in processes}) as started, _server(base, cores) as server:
        for worker in started.values():
            worker.ready()
        facts = dict(started["model"].facts)
        pixel_input, _ = facts.pop("input"), facts.pop("shape")
        load, turns = started["clients"], {}
        for name in DIRECT:
            turns[name] = _turn(started[name], {}, effort)
        for name, (protocol, address, pixels) in {
            GRPC: ("grpc", server.grpc, None),
            REST: ("rest", server.rest, None),
            PIXELS: ("grpc", server.grpc, pixel_input),
        }.items():
            turns[name] = _turn(load, {"address": address, "protocol": protocol, "pixel_input": pixels}, effort)
        own = group(dtype, clients)
        samples = in_turns(list(turns.values()), effort.pairs, f"measuring {own}")
    return [Measured(Variant(own, name, NOBODY), tuple(each), facts) for name, each in zip(turns, samples, strict=True)]


def _version(base: Path) -> Path:
    folder = servable_folder(str(base))
    if folder is None:
        raise UsageError("it could not be exported here")
    return folder


def _turn(worker: Worker, arguments: Mapping[str, Any], effort: Effort) -> Callable[[], Sample]:
    worker.run(1, {**arguments, "seconds": WARM_SECONDS})
    return lambda: worker.run(1, {**arguments, "seconds": effort.seconds})


@contextlib.contextmanager
def _server(base: Path, cores: int) -> Iterator[Any]:
    setting = ServerSetting("a thread a request", intra_op=1, inter_op=cores)
    flags = [f"--model_base_path={base}", "--file_system_poll_wait_seconds=0", *setting.flags]
    with server_process(flags, setting.environment) as server:
        yield server


def decoding(rows: list[Row]) -> list[str]:
    """The share of an answer's time that decoding takes, by gRPC with a file and with pixels; a line a group."""
    by_title = {row.title: row for row in rows}
    lines = []
    for name in dict.fromkeys(row.group for row in rows):
        file, pixels = by_title.get(f"{name}: {GRPC}"), by_title.get(f"{name}: {PIXELS}")
        if file and pixels:
            share = max(0.0, 1 - ratio_of(file.rates, pixels.rates).median)
            lines.append(f"{name}: decoding takes {share:.0%} of an answer by gRPC")
    return lines
