"""`benchmark serve`: the settings of a server that answer most images here, for this model and so many clients.

Each setting is a server of its own. First threads are compared, then batching and fewer cores on top of the best; then
the best one is asked in other ways, for what decoding and the protocol cost.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.machine import usable_cores
from resnet_keras.benchmarks.pairs import ratio_of
from resnet_keras.benchmarks.rounds import Effort, Measured, in_turns
from resnet_keras.benchmarks.server_settings import ServerSetting, first_settings, further_settings
from resnet_keras.benchmarks.variants import Process, Sample, Variant
from resnet_keras.benchmarks.workers import Worker, workers
from resnet_keras.errors import UsageError
from resnet_keras.progress import progress
from resnet_keras.serving.process import ServerProcess, server_process

CLIENTS, DESCRIPTION = "resnet_keras.benchmarks.load:clients", "resnet_keras.benchmarks.inference:description"
WARM_SECONDS = 0.2
NOBODY = Process("resnet_keras serve")
"""For the variants here, whose processes are servers."""
SERVERS = {"resnet_keras_serve": "resnet-keras serve", "tensorflow_model_server": "tensorflow_model_server"}


@dataclass(frozen=True)
class Search:
    """What is served, and how it is asked."""

    base_path: Path
    folder: Path
    """The newest version in it."""
    clients: int
    protocol: str
    effort: Effort
    batching: bool = True
    """Whether batching and fewer cores are tried too."""
    settings: tuple[ServerSetting, ...] = ()
    """To begin with; those for this machine where there are none."""


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    measured: tuple[Measured, ...]
    best: ServerSetting
    gain: float
    """images/s by the images/s of the first setting, in the median of the rounds."""
    decoding: float | None
    """The part of an answer's time that decoding takes, by gRPC with encoded images and with pixels."""

    def to_dict(self, base_path: str) -> dict[str, Any]:
        return {
            "best": self.best.name,
            "gain": self.gain,
            "decoding": self.decoding,
            "flags": self.best.flags_with("batching.config"),
            "environment": self.best.environment,
            "cores": list(self.best.cores),
            "batching": self.best.batching,
            **{key: self.best.command(program, base_path) for key, program in SERVERS.items()},
        }


def search(settings: Search) -> Found:
    """Find the best settings. Raises `UsageError` where a server or a client cannot run."""
    described = Process(DESCRIPTION, {"folder": str(settings.folder)})
    with workers({"model": described}, {"model": "the model"}) as started:
        started["model"].ready()
        facts = dict(started["model"].facts)
    height, width, channels = facts.pop("shape")
    made = {"height": height, "width": width, "channels": channels, "count": settings.clients}
    pixel_input = facts.pop("input")
    with workers({"clients": Process(CLIENTS, made)}, {"clients": "the clients"}) as started:
        load = started["clients"]
        load.ready()
        asked = _Asked(settings, load, facts)
        first = list(settings.settings or first_settings(len(usable_cores())))
        measured, best = asked.compare(first, f"threads, {_words(settings)}")
        gain = 1.0 if best == first[0] else _ratio(measured, first.index(best)).median
        if settings.batching:
            further = [best, *further_settings(best, usable_cores(), settings.clients)]
            more, better = asked.compare(further, f"on top of the best, {_words(settings)}")
            gain *= 1.0 if better == best else _ratio(more, further.index(better)).median
            measured, best = [*measured, *more], better
        ways = asked.ways(best, pixel_input)
    encoded, pixels = (next(one for one in ways if one.variant.name == name) for name in ("gRPC", "gRPC, pixels"))
    share = 1 - ratio_of(_rates(encoded), _rates(pixels)).median
    return Found((*measured, *ways), best, gain, max(0.0, share))


def _words(settings: Search) -> str:
    many = f"{settings.clients} clients" if settings.clients > 1 else "one client"
    return f"{many}, {'gRPC' if settings.protocol == 'grpc' else 'REST'}"


def _rates(measured: Measured) -> list[float]:
    return [sample.rate for sample in measured.samples]


def _ratio(measured: Sequence[Measured], number: int) -> Any:
    return ratio_of(_rates(measured[number]), _rates(measured[0]))


def best_of(measured: Sequence[Measured]) -> int:
    """The number of the setting with most images/s; the first unless another is faster by more than the spread."""
    ratios = [_ratio(measured, number) for number in range(len(measured))]
    faster = [number for number, ratio in enumerate(ratios) if ratio.low > 1]
    return max(faster, key=lambda number: ratios[number].median, default=0)


class _Asked:
    """Servers that the clients ask in turns."""

    def __init__(self, settings: Search, load: Worker, facts: Mapping[str, Any]) -> None:
        self._settings, self._load, self._facts = settings, load, facts
        self._group = settings.base_path.name

    def compare(self, candidates: Sequence[ServerSetting], what: str) -> tuple[list[Measured], ServerSetting]:
        """Measure a server of each setting; returns the best one too."""
        with self._servers(candidates) as servers:
            turns = [self._turn(server, self._settings.protocol, None) for server in servers]
            samples = in_turns(turns, self._settings.effort.pairs, "asking the servers")
        names = [setting.name for setting in candidates]
        measured = self._measured(f"{self._group}, {what}", names, samples)
        return measured, candidates[best_of(measured)]

    def ways(self, best: ServerSetting, pixel_input: str) -> list[Measured]:
        """The best server by both protocols, and by gRPC with pixels, which it need not decode."""
        ways = {"REST": ("rest", None), "gRPC": ("grpc", None), "gRPC, pixels": ("grpc", pixel_input)}
        with self._servers([best]) as (server,):
            turns = [self._turn(server, protocol, pixels) for protocol, pixels in ways.values()]
            samples = in_turns(turns, self._settings.effort.pairs, "asking the best server")
        many = "clients" if self._settings.clients > 1 else "client"
        group = f"{self._group}, the best settings, {self._settings.clients} {many}"
        return self._measured(group, list(ways), samples)

    def _measured(self, group: str, names: Sequence[str], samples: Sequence[Sequence[Sample]]) -> list[Measured]:
        return [
            Measured(Variant(group, name, NOBODY), tuple(own), self._facts)
            for name, own in zip(names, samples, strict=True)
        ]

    def _turn(self, server: ServerProcess, protocol: str, pixels: str | None) -> Callable[[], Sample]:
        address = server.rest if protocol == "rest" else server.grpc
        arguments = {"address": address, "protocol": protocol, "pixel_input": pixels}
        self._load.run(1, {**arguments, "seconds": WARM_SECONDS})
        return lambda: self._load.run(1, {**arguments, "seconds": self._settings.effort.seconds})

    @contextlib.contextmanager
    def _servers(self, settings: Sequence[ServerSetting]) -> Iterator[list[ServerProcess]]:
        with contextlib.ExitStack() as running, tempfile.TemporaryDirectory() as folder:
            servers = []
            with progress("starting servers", len(settings), "servers") as task:
                for number, setting in enumerate(settings):
                    batching = Path(folder, f"{number}.config")
                    batching.write_text(setting.batching, "utf-8")
                    flags = [f"--model_base_path={self._settings.base_path}", "--file_system_poll_wait_seconds=0"]
                    flags += setting.flags_with(str(batching))
                    try:
                        server = server_process(flags, setting.environment, setting.cores)
                        servers.append(running.enter_context(server))
                    except RuntimeError as error:
                        raise UsageError(f"the server with {setting.name}: {error}") from error
                    task.add()
            yield servers
