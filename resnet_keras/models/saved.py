"""Models in files: saving one whole or not at all, and finding it again."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from resnet_keras.config.run_folder import MODEL
from resnet_keras.errors import UsageError, reason
from resnet_keras.files import atomic_write
from resnet_keras.models import around, blocks, norm_blocks, preprocessing  # noqa: F401  (register the classes that a .keras file names)
from resnet_keras.models.archives import check_archive
from resnet_keras.models.downloads import repository_of
from resnet_keras.models.graph import head_of, is_functional
from resnet_keras.models.model import Model
from resnet_keras.models.preprocessing import model_card
from resnet_keras.models.registry import no_model, packaged
from resnet_keras.progress import progress


def save_model(model: keras.Model, path: Path) -> None:
    """Save a `.keras` file whole or not at all, without the optimizer of a model that trains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with with_optimizer(model, None), atomic_write(path) as beside:
        model.save(beside)


@contextlib.contextmanager
def with_optimizer(model: Any, optimizer: keras.optimizers.Optimizer | None) -> Iterator[None]:
    """Within it the model has the optimizer as its own, where Keras's callbacks and files look for it."""
    before = getattr(model, "optimizer", None)
    model.optimizer = optimizer
    try:
        yield
    finally:
        model.optimizer = before


def model_file(source: str | Path) -> Path:
    """The `.keras` file of a run folder, a packaged name or `hf://owner/name`, or the file itself.

    Raises `UsageError` for none.
    """
    if repository := repository_of(source):
        return repository.file(MODEL, f"build the network and load them: rk.load_weights(model, {source!r})")
    path = packaged(source) or Path(source).expanduser()
    if path.is_dir():
        if not (path / MODEL).is_file():
            raise UsageError(f"{path} is not a run folder: it has no {MODEL}")
        return path / MODEL
    if not path.exists():
        raise no_model(path)
    if path.suffix != ".keras":
        raise UsageError(f"{path} is neither a run folder nor a .keras file")
    return path


def load_model(source: str | Path) -> keras.Model:
    """The model of a run folder, a `.keras` file, a packaged name, or what was published on the Hub.

    Args:
        source: a folder or file, "cifar10-jpeg", which comes with the package, or `hf://owner/name[@revision]`.

    Returns:
        The model, not compiled. That of a run takes pixels, 0 to 255, and gives probabilities `[N, classes]`.

    Raises:
        UsageError: (a ValueError) for nothing there, or a damaged file.

    Examples:
        >>> model = rk.load_model("runs/digits")
        >>> model.input_shape, model.output_shape
        ((None, 8, 8, 1), (None, 10))
        >>> model = rk.load_model("hf://someone/digits")  # doctest: +SKIP
    """
    path = model_file(source)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is damaged, or not a .keras file: it is no zip archive")
    try:
        with progress(f"reading {path.name}"):
            check_archive(path)
            model = keras.saving.load_model(path, compile=False)
    except UsageError as error:
        raise UsageError(f"{path} cannot be loaded: {error}") from error
    except Exception as error:  # Keras raises a dozen kinds for a file it cannot read
        if "Lambda" in str(error) and "safe_mode" in str(error):
            raise UsageError(
                f"{path} cannot be loaded: it has a Lambda layer, whose code is in the file and is not run; use a "
                "layer such as Rescaling"
            ) from error
        raise UsageError(f"{path} cannot be loaded, it is damaged or not one of our models: {reason(error)}") from error
    if type(model).__name__ == "Functional":  # a file of 0.1
        return Model(model.input, model.output, name=model.name)
    return model


def classifier(source: str | Path | keras.Model) -> keras.Model:
    """A model, or the one that `load_model` finds, from images to the scores of classes, each between 0 and 1.

    A softmax is put behind a model that ends in logits, or sigmoids where its card has several labels an image.

    Raises:
        UsageError: a model of another kind.
    """
    model = load_model(source) if isinstance(source, str | Path) else source
    if not model.built or not is_functional(model):
        raise UsageError(
            f"{model.name} is no classifier to use: a {type(model).__name__} whose graph is not known; give a "
            "functional keras.Model, or a Sequential that begins with an Input"
        )
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise UsageError(f"{model.name} is no classifier of images: it does not take [N, H, W, C] alone")
    if len(model.outputs) != 1:
        raise UsageError(
            f"{model.name} is no classifier: it has {len(model.outputs)} outputs; give the one of the classes, as by "
            "keras.Model(model.input, model.outputs[0])"
        )
    if len(model.outputs[0].shape) != 2:
        raise UsageError(
            f"{model.name} is no classifier: it does not give [N, classes]; build it with include_top=True"
        )
    head, classes = head_of(model), model.outputs[0].shape[-1]
    if head.activation not in ("softmax", "sigmoid", "linear", ""):
        raise UsageError(f"{model.name} ends in neither logits nor probabilities, but in {head.activation}")
    if classes == 1 and head.activation in ("linear", "sigmoid") and not model_card(model).labels:
        raise UsageError(f"{model.name} gives one score for two classes; give it a head of two, such as Dense(2)")
    if head.activation == "linear":
        kind = "sigmoid" if model_card(model).several else "softmax"
        scores = keras.layers.Activation(kind, name="predictions", dtype="float32")
        return keras.Model(model.inputs[0], scores(model.outputs[0]), name=model.name)
    return model
