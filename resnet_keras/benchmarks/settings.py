"""What each kind of benchmark measures: frozen settings to variants. Standard library only."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnet_keras.benchmarks.variants import Process, Variant
from resnet_keras.config.recipes import RECIPES
from resnet_keras.config.run_folder import MODEL
from resnet_keras.errors import UsageError, require, unknown
from resnet_keras.models.registry import check_there, named, packaged

PRECISIONS: dict[str, Literal["float32", "mixed_bfloat16", "mixed_float16"]] = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
SERVABLE_DTYPES = ("float32", "bfloat16", "int8")
HERE = "resnet_keras.benchmarks"
RANDOM, NO_AUGMENTATION = "random", "none"


def network_named(name: str) -> str:
    """A name of the table of networks; a depth alone is a ResNet of the ImageNet kind."""
    name = f"resnet{name}" if name.isdecimal() else name
    named(name)
    return name


def _check_several(name: str, values: tuple[Any, ...]) -> None:
    require(bool(values), name, "at least one", "none")
    require(len(set(values)) == len(values), name, "different from one another", " ".join(map(str, values)))
    for value in values:
        if isinstance(value, int):
            require(value >= 1, name, "at least 1", value)


@dataclass(frozen=True)
class TrainSettings:
    """Training steps of networks: of each, batch size, image size and dtype."""

    models: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    image_sizes: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)

    def variants(self) -> list[Variant]:
        """Keras's `train_on_batch` first, then our step. Raises `UsageError` for what does not exist."""
        for name, values in (("model", self.models), ("batch_size", self.batch_sizes), ("dtype", self.dtypes)):
            _check_several(name, values)
        found = []
        sizes: tuple[int | None, ...] = self.image_sizes or (None,)
        for model, size, dtype, batch in itertools.product(self.models, sizes, self.dtypes, self.batch_sizes):
            if dtype not in PRECISIONS:
                raise unknown("dtype", dtype, PRECISIONS)
            name = network_named(model)
            side = size or named(name).input_size
            require(side >= 1, "image_size", "at least 1", side)
            group = f"{name} {side}x{side} batch {batch} {dtype}"
            made = {"model": name, "image_size": side, "batch_size": batch, "dtype": dtype}
            found += [
                Variant(group, "Keras train_on_batch", Process(f"{HERE}.training:keras_step", made)),
                Variant(group, "resnet-keras train", Process(f"{HERE}.training:our_step", made)),
            ]
        return found


@dataclass(frozen=True)
class InferSettings:
    """Predictions of a model by Keras, by `model.export()` and by servables, at batch sizes."""

    model: str
    batch_sizes: tuple[int, ...]
    image_size: int | None = None
    dtypes: tuple[str, ...] = SERVABLE_DTYPES

    def variants(self) -> list[Variant]:
        """`model.export()` first. Of a servable's folder, that servable alone."""
        _check_several("batch_size", self.batch_sizes)
        if len(set(self.dtypes)) != len(self.dtypes):
            _check_several("dtype", self.dtypes)
        for dtype in self.dtypes:
            if dtype not in SERVABLE_DTYPES:
                raise unknown("dtype", dtype, SERVABLE_DTYPES)
        require(self.image_size is None or self.image_size >= 1, "image_size", "at least 1", self.image_size)
        if servable := servable_folder(self.model):
            folder = Process(f"{HERE}.inference:served", {"folder": str(servable)})
            ways = {"servable": folder}
            name = f"{servable.parent.name} version {servable.name}"
        else:
            name, made = self._source()
            ways = {
                "model.export()": Process(f"{HERE}.inference:keras_export", made),
                "Keras call": Process(f"{HERE}.inference:keras_call", made),
                **{
                    f"servable {dtype}": Process(f"{HERE}.inference:servable", {**made, "dtype": dtype})
                    for dtype in self.dtypes
                },
            }
        return [
            Variant(f"{name} batch {batch}", way, process, {"batch": batch})
            for batch in self.batch_sizes
            for way, process in ways.items()
        ]

    def _source(self) -> tuple[str, dict[str, Any]]:
        path = Path(self.model).expanduser()
        if packaged(self.model) or path.exists():
            check_there(self.model)
            if not packaged(self.model) and not (path / MODEL).is_file() and path.suffix != ".keras":
                raise UsageError(
                    f"{path} is no run folder, .keras file or servable: it has neither {MODEL} nor versions"
                )
            require(self.image_size is None, "image_size", "left out for a model in a file", self.image_size)
            return (path.parent.name if path.name == "model.keras" else path.name), {"model": str(self.model)}
        name = network_named(self.model)
        side = self.image_size or named(name).input_size
        return f"{name} {side}x{side}", {"model": name, "image_size": side}


def servable_folder(path: str) -> Path | None:
    """The version folder of a SavedModel: itself, or the newest version of a model's folder; None for another path."""
    base = Path(path).expanduser()
    if (base / "saved_model.pb").is_file():
        return base.resolve()
    if not base.is_dir():
        return None
    versions = [int(child.name) for child in base.iterdir() if child.name.isdecimal()]
    newest = base / str(max(versions, default=0))
    return newest.resolve() if (newest / "saved_model.pb").is_file() else None


@dataclass(frozen=True)
class InputSettings:
    """Training batches of data, by the augmentation of recipes."""

    data: str
    recipes: tuple[str, ...]
    batch_size: int
    image_size: int | None = None
    data_dir: str | None = None
    seconds: float = 1.0
    """Of a turn."""

    def variants(self) -> list[Variant]:
        """A row a recipe; without augmentation first, where it is among them."""
        _check_several("recipe", self.recipes)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.image_size is None or self.image_size >= 1, "image_size", "at least 1", self.image_size)
        for name in self.recipes:
            if name != NO_AUGMENTATION and name not in RECIPES:
                raise unknown("recipe", name, [NO_AUGMENTATION, *RECIPES])
        size = self.image_size or (224 if self.data == RANDOM else None)
        made = {"data": self.data, "batch_size": self.batch_size, "image_size": size, "data_dir": self.data_dir}
        at = f" {size}x{size}" if size else ""
        group = f"{Path(self.data).name}{at} batch {self.batch_size}"
        return [
            Variant(
                group,
                "no augmentation" if name == NO_AUGMENTATION else f"as {name}",
                Process(f"{HERE}.pipeline:batches", {**made, "recipe": name}),
                {"seconds": self.seconds},
            )
            for name in self.recipes
        ]


def check_model_base_path(path: str | None) -> Path:
    """The folder of a model's versions. Raises `UsageError` where there is no servable in it."""
    if not path:
        raise UsageError("give --model-base-path, the folder of a model's versions, such as saved_models/NAME")
    folder = servable_folder(path)
    if folder is None or folder == Path(path).expanduser().resolve():
        hint = "; give the folder above it" if folder else ""
        raise UsageError(f"{path} has no version with a saved_model.pb in it{hint}")
    return folder
