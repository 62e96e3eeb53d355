"""Run folders and the models in them: opening one, saving a model whole or not at all, and finding it again."""

import contextlib
import fcntl
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras

from resnet_keras.config.train import TrainConfig, config_from_json, differences
from resnet_keras.data.pipeline import PictureFormat
from resnet_keras.errors import UsageError, reason
from resnet_keras.files import whole, writing_to
from resnet_keras.models import blocks  # noqa: F401  (registers the classes that a .keras file names)
from resnet_keras.models.card import ModelCard
from resnet_keras.models.layers import Preprocessing
from resnet_keras.models.registry import OFFER, packaged

CONFIG, MODEL, TABLE, METRICS, REPORT = "config.json", "model.keras", "metrics.csv", "metrics.json", "report.html"
BEST = Path("checkpoints", "best.keras")
LOGS = "tensorboard"
LOCK = ".lock"
DEFAULT_SIDE = 224


def new_folder_name(name: str) -> Path:
    """A folder in `runs/` that is not there yet."""
    wanted = folder = Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    number = 2
    while folder.exists():  # two runs in one second
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def check_run_folder(folder: Path, config: TrainConfig) -> bool:
    """Whether a folder holds a run of this config, finished or not, to go on with; False where nothing is there.

    Raises `UsageError` where it holds anything else, or a run of another config.
    """
    with writing_to(folder):
        there = [child for child in folder.iterdir() if not child.name.startswith(".")] if folder.exists() else []
    if not there:
        return False
    began = run_config(folder)
    if began is None:
        raise UsageError(f"run folder {folder} is not empty; give another --run-dir, or remove it")
    if changed := differences(began, config):
        fields = ", ".join(f"{name} was {was!r}, now {now!r}" for name, (was, now) in changed.items())
        raise UsageError(f"{folder} is a run of another config: {fields}; give another --run-dir, or the same fields")
    return True


@contextlib.contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make a run folder and keep it for this process. Raises `UsageError` where that cannot be."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write to {folder}: it is read-only; give another --run-dir")
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process, however it ends
        except OSError as error:
            raise UsageError(f"another process trains in {folder}; wait for it, or give another --run-dir") from error
        yield


def save_model(model: keras.Model, path: Path) -> None:
    """Save a `.keras` file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as beside:
        model.save(beside)


def model_file(source: str | Path) -> Path:
    """The `.keras` file of a run folder or a packaged name, or the file itself. Raises `UsageError` for none."""
    path = packaged(source) or Path(source).expanduser()
    if path.is_dir():
        if not (path / MODEL).is_file():
            raise UsageError(f"{path} is not a run folder: it has no {MODEL}")
        return path / MODEL
    if not path.exists():
        raise UsageError(f"there is no run folder or model at {path}; packaged ones are {OFFER}")
    if path.suffix != ".keras":
        raise UsageError(f"{path} is neither a run folder nor a .keras file")
    return path


def load_model(source: str | Path) -> keras.Model:
    """The model of a run folder, a `.keras` file or a packaged name. Raises `UsageError` for none, or a damaged one."""
    path = model_file(source)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is damaged, or not a .keras file: it is no zip archive")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises a dozen kinds for a file it cannot read
        raise UsageError(f"{path} cannot be loaded, it is damaged or not one of our models: {reason(error)}") from error


def classifier(source: str | Path | keras.Model) -> keras.Model:
    """A model, or the one that `load_model` finds, from pictures to the probabilities of classes.

    Raises `UsageError` for a model of another kind. A softmax is put behind a network of ours that ends in logits.
    """
    model = load_model(source) if isinstance(source, str | Path) else source
    if not model.built or len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise UsageError(f"{model.name} is no classifier of pictures: it does not take [N, H, W, C] alone")
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise UsageError(
            f"{model.name} is no classifier: it does not give [N, classes]; build it with include_top=True"
        )
    if model.layers[-1].name == "logits":
        softmax = keras.layers.Activation("softmax", name="predictions", dtype="float32")
        return keras.Model(model.input, softmax(model.output), name=model.name)
    return model


def run_config(source: str | Path | keras.Model) -> TrainConfig | None:
    """The config of a run folder; None for anything else."""
    path = Path(source) / CONFIG if isinstance(source, str | Path) else None
    return config_from_json(path.read_text("utf-8"), str(path)) if path and path.is_file() else None


def card_layer(model: keras.Model) -> Preprocessing | None:
    """The layer that carries a model's card and, where it was built so, normalises its pixels; None for others'."""
    for layer in model.layers:
        inside = card_layer(layer) if isinstance(layer, keras.Model) else layer
        if isinstance(inside, Preprocessing):
            return inside
    return None


def model_card(model: keras.Model) -> ModelCard:
    """How a model's pictures are prepared, what its outputs mean, and where its weights are from.

    It survives `model.save` and goes with an export. A model of others has ImageNet's normalisation and no labels.
    """
    layer = card_layer(model)
    return layer.card if layer else ModelCard()


def picture_format(model: keras.Model) -> PictureFormat:
    """The pictures that a model takes, of the size it was tested on, or 224x224, where its input has no fixed size."""
    height, width, channels = model.input_shape[1:]
    card = model_card(model)
    size = card.input_size or (DEFAULT_SIDE, DEFAULT_SIDE)
    return PictureFormat((height or size[0], width or size[1]), channels, card)


def missing_normalisation(model: keras.Model) -> Preprocessing | None:
    """What a model leaves to its caller to do to raw pixels; None where it does that itself.

    Raises `UsageError` where nothing says how pixels of so many channels are normalised.
    """
    layer = card_layer(model)
    if layer and layer.normalise:
        return None
    card, channels = model_card(model), model.input_shape[-1]
    if not card.fits(channels):
        raise UsageError(f"{model.name} takes {channels} channels and says nothing of their normalisation")
    return Preprocessing(card, name="preprocessing")


def from_pixels(model: keras.Model) -> keras.Model:
    """The model as a function of raw pixels, 0 to 255: itself, or with its card's normalisation before it."""
    missing = missing_normalisation(model)
    if missing is None:
        return model
    shape = picture_format(model)
    pixels = keras.Input((*shape.size, shape.channels), name="image")
    return keras.Model(pixels, model(missing(pixels)), name=model.name)
