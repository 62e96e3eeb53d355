"""Settings of a server that decide how fast a CPU answers, and commands that have them. Standard library only."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

CALLER_THREAD = "TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD"
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True)
class ServerSetting:
    """One way to run a server."""

    name: str
    intra_op: int = 0
    """Threads within an operation; 0 for as many as there are cores."""
    inter_op: int = 0
    """Operations at a time; 0 for as many as there are cores."""
    caller_thread: bool = False
    """Whether the thread that calls oneDNN works on its operation too."""
    batch: int = 0
    """Largest batch that requests are put together to; 0 for none."""
    batch_threads: int = 1
    cores: tuple[int, ...] = ()
    """Logical cores; all where there are none."""

    @property
    def flags(self) -> list[str]:
        """Of TensorFlow Serving and of `resnet-keras serve`, but for the file of batching."""
        found = []
        if self.intra_op:
            found.append(f"--tensorflow_intra_op_parallelism={self.intra_op}")
        if self.inter_op:
            found.append(f"--tensorflow_inter_op_parallelism={self.inter_op}")
        return found

    @property
    def environment(self) -> dict[str, str]:
        return {CALLER_THREAD: "1"} if self.caller_thread else {}

    @property
    def batching(self) -> str:
        """The text of the file of batching; empty without."""
        if not self.batch:
            return ""
        return (
            f"max_batch_size {{ value: {self.batch} }}\nbatch_timeout_micros {{ value: 2000 }}\n"
            f"max_enqueued_batches {{ value: 100 }}\nnum_batch_threads {{ value: {self.batch_threads} }}\n"
        )

    def flags_with(self, batching_file: str) -> list[str]:
        """The flags, with those of batching where it batches."""
        more = ["--enable_batching=true", f"--batching_parameters_file={batching_file}"] if self.batch else []
        return [*self.flags, *more]

    def command(self, program: str, base_path: str, batching_file: str = "batching.config") -> str:
        """A line for the shell. `program` is `resnet-keras serve` or `tensorflow_model_server`."""
        words = [f"{name}={value}" for name, value in self.environment.items()]
        words += ["taskset", "-c", ",".join(map(str, self.cores))] if self.cores else []
        words += [*program.split(), f"--model_base_path={base_path}", *self.flags_with(batching_file)]
        return " ".join(words)


def first_settings(cores: int) -> list[ServerSetting]:
    """Threads, by what they are for; TensorFlow's own choice first."""
    settings = [
        ServerSetting("as TensorFlow chooses"),
        ServerSetting("as TensorFlow chooses, caller's thread", caller_thread=True),
    ]
    if cores > 1:
        settings.append(ServerSetting("a thread a request", intra_op=1, inter_op=cores))
    settings += [
        ServerSetting("all threads on one request", intra_op=cores, inter_op=1),
        ServerSetting("all threads on one request, caller's thread", cores, 1, caller_thread=True),
    ]
    return [replace(setting, name=_named(setting)) for setting in settings]


def _named(setting: ServerSetting) -> str:
    threads = [f"intra_op={setting.intra_op}"] * bool(setting.intra_op)
    threads += [f"inter_op={setting.inter_op}"] * bool(setting.inter_op)
    base = setting.name.partition(",")[0]
    return ", ".join(
        [f"{base} ({' '.join(threads)})" if threads else base, *["caller's thread"] * setting.caller_thread]
    )


def further_settings(best: ServerSetting, cores: list[int], clients: int) -> list[ServerSetting]:
    """What can be put on top of the best threads: batches, where there are several clients, and fewer cores."""
    found = []
    if clients > 1:
        threads = len(cores) if best.intra_op == 1 else 1
        batch = max(2, -(-clients // threads))
        name = f"{best.name}, batches of {batch} at most"
        found.append(replace(best, name=name, batch=batch, batch_threads=threads))
    if fewer := physical_cores(cores) or cores[:-1]:
        name = f"{best.name}, cores {','.join(map(str, fewer))}"
        found.append(replace(best, name=name, cores=tuple(fewer), **_fitted(best, len(fewer))))
    return found


def _fitted(setting: ServerSetting, cores: int) -> dict[str, int]:
    """Its numbers of threads, of no more than so many cores."""
    return {name: min(getattr(setting, name), cores) for name in ("intra_op", "inter_op")}


def physical_cores(cores: list[int]) -> list[int]:
    """The first logical core of each physical one; none where each is one of its own, or nothing says so."""
    firsts = set()
    for core in cores:
        with contextlib.suppress(OSError, ValueError):
            siblings = Path(SIBLINGS.format(core)).read_text("utf-8").strip()
            firsts.add(min(_listed(siblings)))
    chosen = sorted(firsts & set(cores))
    return chosen if 0 < len(chosen) < len(cores) else []


def _listed(text: str) -> list[int]:
    """Linux's `0-2,8` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found
