"""The model card: README.md of a published network, in words made from its run."""

import dataclasses
from pathlib import Path
from typing import Any

import jinja2

from resnet_keras.config.recipes import RECIPES, recipe_summary
from resnet_keras.config.run_folder import MODEL
from resnet_keras.config.train import GIVEN, OPERATIONAL, TrainConfig
from resnet_keras.data.images import covered
from resnet_keras.errors import needs_extra
from resnet_keras.models.card import ModelCard
from resnet_keras.models.registry import NAMES
from resnet_keras.models.weights.hub import TENSORS, is_hub_name
from resnet_keras.publishing.publication import Publication
from resnet_keras.version import __version__

LABELS_SHOWN = 50
ENVIRONMENT = ("devices", "xla", "machine", "python", "tensorflow", "keras")
"""What of a run's environment is published."""
NAMES_OF_METRICS = {"loss": "loss", "accuracy": "accuracy (top 1)", "top5_accuracy": "accuracy (top 5)"}
SEVERAL = {"mean_average_precision": "mean average precision", "accuracy": "accuracy of all decisions"}
"""Of several labels an image."""
DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet2012": "ILSVRC/imagenet-1k",
    "mnist": "ylecun/mnist",
}
"""The Hub's names of TensorFlow's data sets."""
SOURCED = ("model", "model_options", "weights", "data", "name")
"""Fields of a config that the card says elsewhere, in words."""


def model_card_text(publication: Publication, address: str, name: str) -> str:
    """The text of README.md.

    Args:
        publication: what it is of.
        address: what `load_model` and timm find it by: `hf://owner/name`, or a folder's name.
        name: of the network, in the title.
    """
    card, config = publication.card, publication.config
    row = NAMES.get(card.network)
    on_hub = address.startswith("hf://")
    timm = publication.tensors and publication.tensors.timm
    source = "hf-hub:" + address.removeprefix("hf://") if on_hub else "local-dir:" + address
    environment: dict[str, Any] = dict(publication.metrics.get("environment", {}))
    height, width, channels = publication.shape
    options = config.model_options if config else {}
    arguments = {"classes": publication.classes, "input_shape": publication.shape, **options}
    if card.several:
        arguments["classifier_activation"] = "sigmoid"
    return _template().render(
        front_matter=_front_matter(publication, name),
        name=name,
        address=address,
        on_hub=on_hub,
        version=__version__,
        row=row,
        network=card.network or publication.model.name,
        parameters=publication.model.count_params(),
        card=card,
        config=config,
        given=config is not None and config.model == GIVEN,
        recipe=config.name if config and config.name in RECIPES else "",
        recipe_summary=recipe_summary(config.name) if config and config.name in RECIPES else "",
        changed=_changed(config) if config else [],
        arguments=[repr(card.network), *(f"{key}={value!r}" for key, value in arguments.items())],
        data=_data(publication),
        counts=str(environment.get("data", "")),
        split=publication.split,
        metrics=publication.metrics,
        measured={_names(card).get(k, k): v for k, v in publication.measured.items()},
        interrupted=publication.interrupted,
        environment={key: environment[key] for key in ENVIRONMENT if key in environment},
        size=(height, width),
        colours={1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel"),
        side=covered((height, width), card.crop),
        classes=publication.classes,
        labels=[_code(label) for label in card.labels[:LABELS_SHOWN]],
        more=max(0, len(card.labels) - LABELS_SHOWN),
        tensors=publication.tensors,
        timm=timm,
        timm_address=source,
        model_file=MODEL,
        tensors_file=TENSORS,
    )


def _names(card: ModelCard) -> dict[str, str]:
    return NAMES_OF_METRICS | (SEVERAL if card.several else {})


def _template() -> jinja2.Template:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _code
    return environment.get_template("readme.md")


def _code(text: object) -> str:
    """A text as Markdown shows it, whatever is in it."""
    return f"`{' '.join(str(text).replace('`', chr(39)).replace('|', '/').split())}`"


def _data(publication: Publication) -> str:
    data = publication.config.data if publication.config else publication.card.data
    return "data that was handed over in Python" if data == GIVEN else data


def _changed(config: TrainConfig) -> list[tuple[str, str]]:
    """The fields of a config that are not as a bare `TrainConfig` has them, with their values."""
    rows: list[tuple[str, str]] = []

    def compare(ours: Any, plain: Any) -> None:
        for field in dataclasses.fields(ours):
            value, other = getattr(ours, field.name), getattr(plain, field.name)
            if dataclasses.is_dataclass(value):
                compare(value, other)
            elif value != other and field.name not in OPERATIONAL | set(SOURCED):
                rows.append((field.name, str(value)))

    compare(config, TrainConfig())
    basics = [("epochs", str(config.epochs)), ("batch_size", str(config.batch_size)), ("seed", str(config.seed))]
    return [*basics, *(row for row in rows if row[0] not in dict(basics))]


def _front_matter(publication: Publication, name: str) -> str:
    """The YAML that the Hub reads."""
    with needs_extra("publish", "hub"):
        from huggingface_hub import EvalResult, ModelCardData
    card, timm = publication.card, publication.tensors and publication.tensors.timm
    data = _data(publication)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=DATASETS.get(data, data) or "unknown",
            dataset_name=data or "unknown",
            dataset_split=publication.split,
            metric_type={"top5_accuracy": "accuracy"}.get(metric, metric),
            metric_name=_names(card)[metric],
            metric_value=round(publication.measured[metric], 6),
        )
        for metric in ("mean_average_precision", "accuracy", "top5_accuracy")
        if metric in publication.measured and metric in _names(card)
    ]
    started = publication.config.weights if publication.config else None
    base = card.source.removeprefix("https://huggingface.co/") if "huggingface.co" in card.source else None
    if base is None and started and is_hub_name(started):
        base = started.removeprefix("hf://").partition("@")[0]
    return ModelCardData(
        license=card.license or None,
        library_name="timm" if timm else "resnet-keras",
        pipeline_tag="image-classification",
        tags=["image-classification", "keras", "resnet-keras", *(["timm"] if timm else [])],
        base_model=base,
        datasets=[DATASETS[data]] if data in DATASETS else None,
        metrics=["accuracy"] if results else None,
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()
