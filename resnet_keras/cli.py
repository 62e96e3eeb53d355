"""The program `resnet-keras`: a command is a dataclass whose fields are its flags.

Exit codes: 0 done; 2 the user's words or files are wrong (one line that says what); 1 a fault of ours (a traceback);
130 interrupted. With --json, standard output has one JSON object and nothing else.
"""

import contextlib
import dataclasses
import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from resnet_keras.config import TrainConfig, config_from_json
from resnet_keras.errors import HostLost, UsageError, reason, require, unknown
from resnet_keras.flags import fill
from resnet_keras.recipes import RECIPES, recipe, recipe_summary
from resnet_keras.serving.client import Client
from resnet_keras.serving.options import Serve, in_tyro_form
from resnet_keras.startup import import_tensorflow
from resnet_keras.version import __version__

FOLDER_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG}


def _print_json(value: dict[str, Any]) -> None:
    from resnet_keras.files import json_text

    print(json_text(value))


@dataclass(frozen=True)
class Demo:
    """Train on the embedded digits, evaluate, export, ask the SavedModel from a new process, predict. No network."""

    run_dir: str | None = None
    """The run folder to make; runs/demo-DATE-TIME when left out."""
    output: str = "saved_models/digits"
    """Where the SavedModel's version folders are."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.demo import demo

        result = demo(self.run_dir, self.output, self.data_dir, quiet=self.quiet)
        if self.json:
            _print_json(result)
        else:
            print("\n".join(f"{name.replace('_', ' '):14} {value}" for name, value in result.items()))


@dataclass(frozen=True)
class Train:
    """Train a network as a recipe says; every field of the recipe is a flag."""

    config: TrainConfig
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.training.trainer import train

        result = train(self.config, quiet=self.quiet)
        if self.json:
            _print_json({"run_dir": str(result.run_dir), **result.metrics})
            return
        tested = "held-out" if self.config.validation else "test"
        print(
            f"{tested} accuracy {result.metrics['accuracy']:.4f}, loss {result.metrics['loss']:.4f}; "
            f"model and report in {result.run_dir}"
        )


@dataclass(frozen=True)
class Evaluate:
    """Measure a run or a model on a test split: loss, top 1, top 5, each class, confusion."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder or a .keras file."""
    data: str | None = None
    """A TensorFlow Datasets name, digits or a folder; the data the model was trained on when left out."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    batch_size: int = 128
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.evaluation import evaluate

        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        result = evaluate(self.model, self.data, data_dir=self.data_dir, batch_size=self.batch_size)
        if self.json:
            _print_json(result.to_dict())
            return
        width = max(map(len, result.labels))
        for row, counts in zip(result.per_class, result.confusion, strict=True):
            wrong = [(n, result.labels[i]) for i, n in enumerate(counts) if n and result.labels[i] != row["label"]]
            taken_for = ", ".join(f"{label} ({n})" for n, label in sorted(wrong, reverse=True)[:3])
            found = f"{row['recall']:.1%} found" if row["examples"] else "no pictures"
            print(f"{row['label']:{width}}  {found}{f', taken for {taken_for}' if taken_for else ''}")
        print(
            f"accuracy {result.accuracy:.4f}, top 5 {result.top5_accuracy:.4f}, loss {result.loss:.4f} "
            f"on {result.examples:,} pictures"
        )


@dataclass(frozen=True)
class Predict:
    """Name what is in pictures."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder, a .keras file or a SavedModel folder."""
    images: Annotated[tuple[str, ...], Positional, arg(metavar="IMAGE ...")]
    """JPEG, PNG, GIF, BMP or WebP files."""
    top_k: int = 5
    """Classes to name for each."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.prediction import predict

        if not self.images:
            raise UsageError("give at least one picture file after the model")
        predictions = predict(self.model, self.images, self.top_k)
        if self.json:
            _print_json({"predictions": [prediction.to_dict() for prediction in predictions]})
            return
        for prediction in predictions:
            best = zip(prediction.labels, prediction.scores, strict=True)
            print(f"{prediction.image}: {', '.join(f'{label} {score:.4f}' for label, score in best)}")


@dataclass(frozen=True)
class Export:
    """Write a SavedModel for TensorFlow Serving, as the next version; or one file of another runtime."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder or a .keras file."""
    output: str | None = None
    """saved_models/NAME; NAME is the run's or the file's when left out. For another format: the file."""
    format: str = "saved_model"
    """saved_model, onnx or litert."""
    version: int | None = None
    """The next free number when left out."""
    dtype: str = "float32"
    """float32, bfloat16 or int8."""
    calibration_data: str | None = None
    """For int8: a folder of class/file or the name of a data set, 256 pictures or more."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    max_accuracy_loss: float = 0.5
    """For int8: percentage points that may be lost."""
    top_k: int = 5
    """Classes that the image_bytes signature names."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.export.servable import export_servable, manifest_of

        if self.format != "saved_model":
            self._to_file()
            return
        path = Path(self.model).resolve()
        path = path.parent if path.name == "model.keras" else path
        output = self.output or str(Path("saved_models", path.name.removesuffix(".keras")))
        path = export_servable(
            self.model,
            output,
            version=self.version,
            dtype=self.dtype,
            top_k=self.top_k,
            calibration_data=self.calibration_data,
            data_dir=self.data_dir,
            max_accuracy_loss=self.max_accuracy_loss,
        )
        quantised = manifest_of(path).get("int8", {})
        if self.json:
            _print_json({"path": str(path), "version": int(path.name), **quantised})
            return
        print(f"exported to {path}")
        if quantised:
            what = "accuracy" if "accuracy" in quantised else "agreement"
            before = f" (float32 {quantised['accuracy_float32']:.4f})" if what == "accuracy" else " with float32"
            share = f"{quantised['share_of_macs']:.0%} of the multiply-adds in int8"
            print(f"{share}; {what} {quantised[what]:.4f}{before} on {quantised['pictures']:,} pictures")

    def _to_file(self) -> None:
        from resnet_keras.export.formats import export_file

        if self.output is None or self.version is not None:
            raise UsageError(f"format {self.format} is one file: give --output FILE, and no --version")
        path = export_file(
            self.model,
            self.output,
            self.format,
            dtype=self.dtype,
            calibration_data=self.calibration_data,
            data_dir=self.data_dir,
            max_accuracy_loss=self.max_accuracy_loss,
        )
        if self.json:
            _print_json({"path": str(path)})
        else:
            print(f"exported to {path}")


@dataclass(frozen=True)
class Rollback:
    """Serve the version before the newest one again."""

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """A model's folder in saved_models."""
    models: str = "saved_models"
    """The folder of models.config."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.export.versions import rollback

        gone, served = rollback(self.models, self.name)
        if self.json:
            _print_json({"name": self.name, "withdrawn": gone, "served": served})
        else:
            print(f"{self.name}: version {gone} is served no more, version {served} is")


@dataclass(frozen=True)
class Models:
    """List the networks: parameters (trainable), multiply-adds, input size, source."""

    pattern: Annotated[str, Positional, arg(metavar="PATTERN")] = "*"
    """A shell pattern, such as '*cifar*'."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.names import NAMES, list_models, model_table

        names = list_models(self.pattern)
        if not names:
            raise unknown("model pattern", self.pattern, NAMES, "without a pattern, all are listed")
        rows = model_table(names)
        if self.json:
            _print_json({"models": rows})
            return
        width = max(map(len, names))
        print(f"{'name':{width}}  {'parameters':>12}  {'GMACs':>7}  input  source")
        for row in rows:
            print(
                f"{row['name']:{width}}  {row['trainable_parameters']:12,}  {row['macs'] / 1e9:7.3f}  "
                f"{row['input_size']:5d}  {row['source']}"
            )


Command = Demo | Train | Evaluate | Predict | Export | Rollback | Serve | Client | Models
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "rollback": Rollback,
    "serve": Serve,
    "client": Client,
    "models": Models,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(words)
        if command is not None:
            if not isinstance(command, Models | Client):
                _import_tensorflow()
            command.run()
    except UsageError as error:
        return _refuse(str(error))
    except HostLost as error:
        print(f"resnet-keras: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"resnet-keras: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in FOLDER_ERRORS:
            raise
        return _refuse(f"cannot use {error.filename or 'the output folder'}: {error.strerror}")
    return 0


def _import_tensorflow() -> None:
    try:
        import_tensorflow()
    except ImportError as error:
        raise UsageError(reason(error)) from error
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        # Two ops at a time share the CPU's threads as chance has it, and their sums differ in the last bits: one seed
        # would not give one result. Too late where TensorFlow runs already; then its owner has set it up.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_inter_op_parallelism_threads(1)


def _refuse(message: str) -> int:
    print(f"resnet-keras: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parse(words: list[str]) -> Command | None:
    """The command that the words ask for; None where they only ask for help, which is then printed."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return None
    name, rest = words[0], words[1:]
    if name == "--version":
        print(f"resnet-keras {__version__}")
        return None
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    if name == "train":
        return _parse_train(rest)
    if name == "serve":
        rest = in_tyro_form(rest)
    return fill(COMMANDS[name], rest, f"resnet-keras {name}")


def _parse_train(words: list[str]) -> Train | None:
    if words and not words[0].startswith("-"):
        source, rest = words[0], words[1:]
        path = Path(source).expanduser()
        if source.endswith(".json"):
            # Another run, so not into the folder of the one it was read from.
            config = dataclasses.replace(_read_config(path), run_dir=None)
        elif source not in RECIPES and (path / "config.json").is_file():
            config = dataclasses.replace(_read_config(path / "config.json"), run_dir=str(path))
        else:
            config = recipe(source)
        return fill(Train, rest, f"resnet-keras train {source}", Train(config))
    if words and words[0] not in ("-h", "--help"):
        raise UsageError(f"the recipe comes first: resnet-keras train RECIPE {' '.join(words)}")
    print("usage: resnet-keras train RECIPE [flags]\n")
    print("RECIPE is a name below, the config.json of a run, which is repeated, or a run folder, which goes on.")
    print("`resnet-keras train RECIPE --help` lists its flags.\n")
    print("\n".join(f"  {name:18} {recipe_summary(name)}" for name in RECIPES))
    if not words:
        raise UsageError("train needs a recipe")
    return None


def _read_config(path: Path) -> TrainConfig:
    try:
        return config_from_json(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the config file {path}: {reason(error)}") from error


def _help() -> str:
    lines = [
        "usage: resnet-keras COMMAND [flags]",
        "",
        "ResNets for Keras 3 and TensorFlow.",
        "",
        *(f"  {name:9} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items()),
        "",
        "`resnet-keras COMMAND --help` lists a command's flags.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
