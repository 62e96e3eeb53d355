"""`resnet-keras benchmark`: how fast this machine trains, predicts, reads and serves, and which share of it is used."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from resnet_keras.errors import UsageError, require

QUICK_PAIRS, QUICK_SECONDS = 3, 0.3


@dataclass(frozen=True)
class Benchmark:
    """Measure training, inference, input or serving here, beside Keras's own way; no other library is needed.

    Exit code 1 where --against names a row that got slower.
    """

    pairs: int = 7
    """Rounds: in each, every variant takes its turn. At least 2, for a spread."""
    seconds: float = 1.0
    """Of a turn."""
    quick: bool = False
    """3 rounds of 0.3 s, and the smallest of several sizes: for a look, not for a claim."""
    limit: bool = True
    """Measure the machine's limit too, by products and convolutions of each dtype, before and after: ten
    seconds each time."""
    against: str | None = None
    """The benchmarks.json of an earlier run; what got slower by more than its spread is named."""
    output: str | None = None
    """The folder of the results, for benchmarks.json, whose benchmarks of other kinds stay, a table and bars."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    kind: ClassVar[str] = ""

    def check(self) -> None:
        """Raise `UsageError` for what is wrong without measuring anything."""
        require(self.pairs >= 2, "pairs", "at least 2", self.pairs)
        require(0 < self.seconds <= 600, "seconds", "above 0 and at most 600", self.seconds)
        if self.against is not None:
            from resnet_keras.benchmarks.against import earlier

            earlier(self.against, self.kind)
        if self.output is not None:
            folder = Path(self.output).expanduser()
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"output {folder} is a file; give a folder")
        self.variants()

    def run(self) -> int:
        """Measure, print, write, compare; the exit code."""
        from resnet_keras.benchmarks.against import Comparison, earlier
        from resnet_keras.benchmarks.report import as_file
        from resnet_keras.benchmarks.tables import markdown, write_report
        from resnet_keras.benchmarks.workers import ends_by_signals
        from resnet_keras.files import writing_to

        before = None if self.against is None else earlier(self.against, self.kind)
        with ends_by_signals():
            report = self.measure()
        print(as_file({self.kind: report}) if self.json else markdown(report))
        if self.output is not None:
            folder = Path(self.output).expanduser()
            with writing_to(folder):
                paths = write_report(report, folder)
            if not self.json:
                print(f"\nwritten: {', '.join(map(str, paths))}")
        if before is None:
            return 0
        comparison = Comparison(before, report)
        print("\n".join(["", *comparison.words()]), file=sys.stderr if self.json else sys.stdout)
        return 1 if comparison.slower else 0

    def variants(self) -> list[Any]:
        """What is measured, of the fields. Raises `UsageError` for wrong ones."""
        return []

    def measure(self) -> Any:
        """The report."""
        from resnet_keras.benchmarks.command import compare_variants

        return compare_variants(self.kind, self.variants(), self.effort, limit=self.limit)

    @property
    def effort(self) -> Any:
        """How much is measured."""
        from resnet_keras.benchmarks.rounds import Effort

        if self.quick:
            return Effort(min(self.pairs, QUICK_PAIRS), min(self.seconds, QUICK_SECONDS))
        return Effort(self.pairs, self.seconds)

    def chosen(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of several values all, or the first where it is to be quick."""
        return values[:1] if self.quick else values


@dataclass(frozen=True)
class BenchmarkTrain(Benchmark):
    """Images/s of a training step, as `resnet-keras train` runs it, beside Keras's train_on_batch of the same net."""

    model: tuple[str, ...] = ("resnet50",)
    """Names of networks; 50 is resnet50. Several values of these flags are measured in every combination."""
    batch_size: tuple[int, ...] = (16,)
    """Images a step."""
    image_size: tuple[int, ...] = ()
    """Side of the images; the network's own when left out."""
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    """float32, bfloat16 or float16: mixed precision but for float32."""

    kind: ClassVar[str] = "train"

    def variants(self) -> list[Any]:
        from resnet_keras.benchmarks.settings import TrainSettings

        batches, sides = self.chosen(self.batch_size), self.chosen(self.image_size)
        return TrainSettings(self.model, batches, sides, self.dtype).variants()


@dataclass(frozen=True)
class BenchmarkInfer(Benchmark):
    """Images/s of predictions by Keras, by model.export() and by servables of ours, with their answers compared."""

    model: str = "resnet50"
    """A name of a network, which has random weights then; a run folder, a .keras file, or the folder of a servable."""
    batch_size: tuple[int, ...] = (1, 8, 32)
    """Images a call."""
    image_size: int | None = None
    """Side of the images of a named network; its own when left out."""
    dtype: tuple[str, ...] = ("float32", "bfloat16", "int8")
    """Of the servables."""

    kind: ClassVar[str] = "infer"

    def variants(self) -> list[Any]:
        from resnet_keras.benchmarks.settings import InferSettings

        return InferSettings(self.model, self.chosen(self.batch_size), self.image_size, self.dtype).variants()


@dataclass(frozen=True)
class BenchmarkInput(Benchmark):
    """Images/s of the training input: reading, decoding, augmentation, batches."""

    data: str = "random"
    """A TensorFlow Datasets name, digits, a folder, a table; or random, JPEG files of 500x375."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    recipe: tuple[str, ...] = ("imagenet-resnet50", "imagenet-a1")
    """Recipes whose augmentation is measured; none for the evaluation crop, decoded once where it fits in memory."""
    batch_size: int = 64
    """Images a batch."""
    image_size: int | None = None
    """Side of the images; that of the data when they have one, 224 for random."""

    kind: ClassVar[str] = "input"

    def variants(self) -> list[Any]:
        from resnet_keras.benchmarks.settings import InputSettings

        return InputSettings(
            self.data, self.recipe, self.batch_size, self.image_size, self.data_dir, self.effort.seconds
        ).variants()


@dataclass(frozen=True)
class BenchmarkServe(Benchmark):
    """The server settings that answer most images here, for a model and so many clients, and the flags that set them.

    Threads, oneDNN's caller thread, batching and cores are compared, each setting in a server of its own.
    """

    model_base_path: str | None = None
    """The folder of the model's version folders; the newest is served."""
    clients: int = 4
    """That ask at a time, in a process which shares the machine with the server."""
    protocol: Literal["rest", "grpc"] = "rest"
    """By which the settings are compared."""
    threads_only: bool = False
    """Leave batching and fewer cores out."""

    kind: ClassVar[str] = "serve"

    def variants(self) -> list[Any]:
        from resnet_keras.benchmarks.settings import check_model_base_path
        from resnet_keras.errors import needs_extra

        check_model_base_path(self.model_base_path)
        require(1 <= self.clients <= 256, "clients", "from 1 to 256", self.clients)
        with needs_extra("benchmark serve", "serve"):
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        return []

    def measure(self) -> Any:
        from resnet_keras.benchmarks.command import within_limits
        from resnet_keras.benchmarks.machine import this_machine
        from resnet_keras.benchmarks.report import report_of, rows_of
        from resnet_keras.benchmarks.serving import Search, search
        from resnet_keras.benchmarks.settings import check_model_base_path

        machine = this_machine()
        folder = check_model_base_path(self.model_base_path)
        asked = Search(folder.parent, folder, self.clients, self.protocol, self.effort, not self.threads_only)
        found, limit = within_limits(lambda: search(asked), self.limit)
        chosen = found.to_dict(self.model_base_path or "")
        return replace(
            report_of(self.kind, rows_of(found.measured, limit), limit, self.effort, machine=machine),
            notes=tuple(_advice(chosen)),
            settings=chosen,
        )


def _advice(chosen: Mapping[str, Any]) -> list[str]:
    """What to do with the settings that were found, a line each."""
    lines = [
        f"Best for this machine, this model and so many clients: {chosen['best']}, {chosen['gain']:.2f} of the first."
    ]
    if chosen["decoding"] is not None:
        lines.append(f"Decoding takes {chosen['decoding']:.0%} of an answer by gRPC.")
    lines += [f"`{chosen[name]}`" for name in ("resnet_keras_serve", "tensorflow_model_server")]
    if chosen["batching"]:
        lines.append(f"batching.config: `{' '.join(chosen['batching'].split())}`")
    return lines


BENCHMARKS: Mapping[str, type[Benchmark]] = {
    kind.kind: kind for kind in (BenchmarkTrain, BenchmarkInfer, BenchmarkInput, BenchmarkServe)
}
"""What can be measured, by its name."""
EveryFlag: type = make_dataclass("EveryFlag", [], bases=tuple(BENCHMARKS.values()), frozen=True)
"""For what completes flags before it is known which of them is meant."""
