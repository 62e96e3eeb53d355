"""The commands of `resnet-keras`: each is a dataclass whose fields are its flags, and which runs itself.

What a command needs of TensorFlow it imports when it runs, so that `--help` does not wait.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from resnet_keras.config.train import AUTO, GIVEN, TrainConfig
from resnet_keras.errors import UsageError, needs_extra, require, unknown
from resnet_keras.experiments.experiment_config import ExperimentConfig
from resnet_keras.models.registry import check_there
from resnet_keras.remote.stores import is_remote
from resnet_keras.serving.options import ServerOptions
from resnet_keras.training.cluster import Cluster, given_cluster


def _print_json(value: dict[str, Any]) -> None:
    from resnet_keras.files import json_text

    print(json_text(value))


@dataclass(frozen=True)
class Demo:
    """Train on the embedded digits, evaluate, export, predict by the SavedModel and a server. No network."""

    run_dir: str | None = None
    """The run folder to make; runs/demo-DATE-TIME when left out."""
    output: str = "saved_models/digits"
    """Where the SavedModel's version folders are."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    seed: int = 0
    """Random seed of the training."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.cli.demo import demo

        result = demo(self.run_dir, self.output, self.data_dir, seed=self.seed, quiet=self.quiet)
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
    track: Literal["none", "mlflow"] = "none"
    """Write the run to an experiment tracker besides."""
    dry_run: bool = False
    """Open the data, build the network, run some steps, say what the run would take, and write nothing."""
    hosts: str | None = None
    """HOST:PORT of each of several hosts, with commas, where nothing else tells of them."""
    host_index: int | None = None
    """This host's place in --hosts, from 0."""

    def check(self) -> None:
        """Raise `UsageError` for a network of no such name, before TensorFlow is imported, which takes seconds."""
        from resnet_keras.models.registry import named

        if self.config.model not in (AUTO, GIVEN):
            named(self.config.model)
        self._cluster()

    def _cluster(self) -> Cluster | None:
        given = self.hosts is not None or self.host_index is not None
        return given_cluster(self.hosts or "", self.host_index) if given else None

    def run(self) -> None:
        if (cluster := self._cluster()) is not None:
            os.environ["TF_CONFIG"] = cluster.tf_config(cluster.hosts)
        if self.dry_run:
            self._estimate()
            return
        from resnet_keras.training.reporters import all_reporters
        from resnet_keras.training.trackers import tracker
        from resnet_keras.training.trainer import run

        reporters = [*all_reporters(self.quiet), *tracker(self.track)]
        result = run(self.config, quiet=self.quiet, reporters=reporters)
        folder = self.config.run_dir if is_remote(self.config.run_dir) else str(result.run_dir)
        if self.json:
            _print_json({"run_dir": folder, **result.metrics})
            return
        found = result.metrics
        average = f"mean average precision {found['mean_average_precision']:.4f}, " if _has_several(found) else ""
        print(
            f"{found['split']} {average}accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}; "
            f"model and report in {folder}"
        )

    def _estimate(self) -> None:
        from resnet_keras.training.trainer import dry_run

        found = dry_run(self.config)
        if self.json:
            _print_json(found)
        else:
            print("\n".join(_estimate_lines(found)))


def _has_several(metrics: dict[str, Any]) -> bool:
    """Whether metrics are of several labels an image."""
    return "mean_average_precision" in metrics


def _estimate_lines(found: dict[str, Any]) -> list[str]:
    """What a dry run found, a line each; of a list, such as the reasons for what was chosen, a line an item."""
    lines = []
    for name, value in found.items():
        if name == "image_size":
            value = " x ".join(map(str, value))
        values = value if isinstance(value, list) else [f"{value:,}" if isinstance(value, int | float) else str(value)]
        for i, item in enumerate(values):
            lines.append(f"{name.replace('_', ' ') if i == 0 else '':20} {item}")
    return lines


@dataclass(frozen=True)
class Evaluate:
    """Measure a run or a model on a test split: loss, top 1, top 5, each class, confusion."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder, a .keras file or cifar10-jpeg, which comes with the package."""
    data: str | None = None
    """A TensorFlow Datasets name, digits, a folder, a .csv or .parquet file; the data the model was trained on when
    left out."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    batch_size: int = 128
    """Images a batch."""
    skip_damaged: bool = False
    """Leave out image files that cannot be read."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def check(self) -> None:
        """Raise `UsageError` for a model that is not there, before TensorFlow is imported."""
        check_there(self.model)

    def run(self) -> None:
        from resnet_keras.inference.evaluate import evaluate

        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        result = evaluate(
            self.model,
            self.data,
            data_dir=self.data_dir,
            batch_size=self.batch_size,
            skip_damaged=self.skip_damaged,
        )
        if self.json:
            _print_json(result.to_dict())
            return
        width = max(map(len, result.labels))
        if result.several:
            for row in result.per_class:
                print(f"{row['label']:{width}}  {_label_words(row)}")
            print(
                f"mean average precision {result.several.mean_average_precision:.4f}, accuracy {result.accuracy:.4f}, "
                f"loss {result.loss:.4f} on {result.examples:,} images"
            )
            return
        for row, counts in zip(result.per_class, result.confusion, strict=True):
            wrong = [(n, result.labels[i]) for i, n in enumerate(counts) if n and result.labels[i] != row["label"]]
            taken_for = ", ".join(f"{label} ({n})" for n, label in sorted(wrong, reverse=True)[:3])
            found = f"{row['recall']:.1%} found" if row["examples"] else "no images"
            print(f"{row['label']:{width}}  {found}{f', taken for {taken_for}' if taken_for else ''}")
        print(
            f"accuracy {result.accuracy:.4f}, top 5 {result.top5_accuracy:.4f}, loss {result.loss:.4f}, "
            f"calibration error {result.ece:.4f} on {result.examples:,} images"
        )


def _label_words(row: dict[str, Any]) -> str:
    """How well a label is found, of a row of `Evaluation.per_class`."""
    parts = [("precision", row["precision"]), ("recall", row["recall"]), ("F1", row["f1"])]
    parts += [("average precision", row["average_precision"]), ("threshold", row["threshold"])]
    words = ", ".join(f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in parts)
    return f"{words}, {row['examples']:,} images"


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
class Verify:
    """Compare servables with the SHA-256 that their manifests have."""

    folder: Annotated[str, Positional, arg(metavar="FOLDER")]
    """A version folder, or a model's folder of them."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.export.integrity import check_files
        from resnet_keras.export.versions import versions_in

        base = Path(self.folder).expanduser()
        folders = [base] if (base / "saved_model.pb").exists() else [base / str(v) for v in versions_in(base)]
        if not folders:
            raise UsageError(f"there is no servable in {base}; give a version folder or the folder of a model")
        found = {str(folder): check_files(folder) for folder in folders}
        if self.json:
            _print_json({"files": found})
            return
        for folder, files in found.items():
            print(f"{folder}: " + (f"{files} files as they were exported" if files else "no manifest to compare with"))


class Serve(ServerOptions):
    """Serve models over TensorFlow Serving's API: gRPC, REST and a page to try them on."""

    def run(self) -> None:
        with needs_extra("serve", "serve"):
            from resnet_keras.serving.server import serve

        serve(self)


@dataclass(frozen=True)
class Experiment:
    """What a shortcut does, measured: gradients, responses, lesions, shortcuts, pre-activation, a thousand layers."""

    name: str
    """A row of the table of experiments."""
    settings: ExperimentConfig

    def run(self) -> None:
        from resnet_keras.config.run_folder import REPORT
        from resnet_keras.experiments.table import run_experiment

        finding, folder = run_experiment(self.name, self.settings)
        if self.settings.json:
            _print_json({"folder": str(folder), **finding.to_dict()})
            return
        print("\n".join(finding.sentences))
        print(f"images, tables and page in {folder / REPORT}")


class Degradation(Experiment):
    """Plain against residual nets by depth: the paper's Figure 6, on the embedded digits or your data."""


@dataclass(frozen=True)
class Models:
    """List the networks: parameters (trainable), multiply-adds, input size, source."""

    pattern: Annotated[str, Positional, arg(metavar="PATTERN")] = "*"
    """A shell pattern, such as '*cifar*'."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.models.registry import NAMES, list_models, model_table

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
