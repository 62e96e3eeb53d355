"""What an experiment compares and how its nets are trained: the flags of `degradation` and `experiment`."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import Optimizer, Schedule, TrainConfig
from resnet_keras.errors import require
from resnet_keras.models.registry import NAMES
from resnet_keras.models.spec import cifar_spec

DIGITS = TrainConfig(
    name="digits-narrow",
    data="digits",
    epochs=6,
    batch_size=64,
    zero_init_gamma=False,
    optimizer=Optimizer(learning_rate=0.05),
    schedule=Schedule(decay="cosine"),
)
"""For the embedded digits, with eight filters in the first stage: no augmentation, for the question is how well a net
learns its training images."""
NARROW, PAPERS = 8, 16


@dataclass(frozen=True)
class ExperimentConfig:
    """Which nets are compared, on which data, how often. One protocol for all the nets of an experiment."""

    depths: tuple[int, ...] = (20, 44)
    """Layers of the nets, 6n+2 each."""
    seeds: int = 3
    """Runs of each net."""
    seed: int = 0
    """Random seed of the first run; the next ones count on."""
    data: str = "digits"
    """digits (embedded), a TensorFlow Datasets name such as cifar10, or a folder."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    image_size: int | None = None
    """Side of the nets' input; the data's own where all its images have one size."""
    epochs: int | None = None
    """6 for digits, else those of the recipe cifar10-resnet20, when left out."""
    width: int | None = None
    """Filters of the first stage; 8 for digits, else the paper's 16, when left out."""
    batch_size: int | None = None
    """64 for digits, else 128, when left out."""
    learning_rate: float | None = None
    """0.05 for digits, else 0.1, when left out."""
    strategy: Literal["auto", "none", "mirrored", "tpu"] = "auto"
    """auto: mirrored if there are several GPUs, else one device."""
    xla: Literal["auto", "on", "off"] = "auto"
    """Compile the step with XLA. auto: on for GPUs and TPUs, off on CPU."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy of the nets."""
    run_dir: str | None = None
    """The folder to make, or that of a stopped experiment, which is resumed; runs/NAME-DATE-TIME when left
    out."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def __post_init__(self) -> None:
        require(bool(self.depths), "depths", "at least one", "none")
        require(len(set(self.depths)) == len(self.depths), "depths", "different from one another", self.depths)
        for depth in self.depths:
            cifar_spec(depth)
        # 0 has a meaning in a run, and none here.
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.width is None or self.width >= 2, "width", "at least 2", self.width)
        self.protocol()

    def protocol(self) -> TrainConfig:
        """How every net is trained, but for the net itself and the seeds after the first."""
        base = DIGITS if self.data == "digits" else dataclasses.replace(recipe("cifar10-resnet20"), data=self.data)
        given = {name: getattr(self, name) for name in ("epochs", "batch_size") if getattr(self, name) is not None}
        if self.learning_rate is not None:
            given["optimizer"] = dataclasses.replace(base.optimizer, learning_rate=self.learning_rate)
        same = ("data_dir", "image_size", "strategy", "xla", "precision", "seed")
        return dataclasses.replace(base, **given, **{name: getattr(self, name) for name in same})

    def nets(self, *makes: Callable[[int], "Net"]) -> list["Net"]:
        """A net of each kind at each depth, the shallow ones first."""
        return [make(depth) for depth in sorted(self.depths) for make in makes]

    @property
    def first_width(self) -> int:
        """Filters of the first stage."""
        return self.width or (NARROW if self.data == "digits" else PAPERS)


@dataclass(frozen=True)
class Net:
    """A net of a comparison: a CIFAR net (He et al. 2015, section 4.2) with some fields of its spec changed."""

    kind: str
    """The group it is compared with the others in, such as plain or residual."""
    depth: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its runs' folders."""
        return f"{self.kind.replace(' ', '-')}-{self.depth}"

    def config(self, settings: ExperimentConfig, seed: int, run_dir: str) -> TrainConfig:
        """The run of this net with a seed."""
        width, options = settings.first_width, dict(self.options)
        model = "cifar_plain" if options.get("shortcut") == "none" else "cifar_resnet"
        named = f"{model}{self.depth}"
        if named not in NAMES:
            named, blocks = f"{model}20", (self.depth - 2) // 6
            options["blocks"] = f"{blocks},{blocks},{blocks}"
        if width != PAPERS:
            options |= {"widths": f"{width},{2 * width},{4 * width}", "stem_width": width}
        protocol = settings.protocol()
        changed = {"zero_init_gamma": options.pop("zero_init_gamma", protocol.zero_init_gamma)}
        return dataclasses.replace(
            protocol, name=self.name, model=named, model_options=options, seed=seed, run_dir=run_dir, **changed
        )


def plain(depth: int) -> Net:
    """The plain twin: the same layers, nothing around them."""
    return Net("plain", depth, {"shortcut": "none"})


def residual(depth: int) -> Net:
    """The paper's net, whose shortcuts have no parameters either (A)."""
    return Net("residual", depth, {"shortcut": "A"})


def from_identity(depth: int) -> Net:
    """The residual net whose blocks start as the identity, the last gamma of each at zero (Goyal et al. 2017)."""
    return Net("residual from identity", depth, {"shortcut": "A", "zero_init_gamma": True})
