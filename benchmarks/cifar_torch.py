"""CIFAR's ResNets and their plain twins in PyTorch, by our recipes on the same files: a peer for our accuracy.

Command: python -m benchmarks.cifar_torch RECIPE [--data-dir DIR] [--model NAME] [--epochs N] [--seed N], after
`make test-interop`, which installs torch. Source: He et al. 2015, section 4.2. Of ours are the recipe, the pixels with
their mean and deviation, the steps of an epoch, which drops its incomplete last batch, and how a run's files are
written; network, initialisation, augmentation, order, optimizer, schedule and test are torch's, or written here for it.
A recipe that asks for more is refused.

Differs from ours: torch's random numbers; the moving variance is of unbiased batch variances, as torch has it.
"""

import contextlib
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import resnet_keras  # noqa: F401  (first: it keeps TensorFlow's start-up messages to itself)

# isort: split
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or torch's threads spin for cores that others are on

import numpy as np
import tensorflow as tf
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from tyro.conf import Positional

from benchmarks.torch_networks import CifarNet
from resnet_keras.cli.flags import fill
from resnet_keras.config.recipes import recipe
from resnet_keras.config.run_folder import CONFIG, METRICS, check_run_folder, new_folder_name, run_folder
from resnet_keras.config.train import Augmentation, Optimizer, Schedule, TrainConfig, differences
from resnet_keras.data.pipeline import steps_per_epoch
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit, Source, channel_statistics
from resnet_keras.errors import UsageError
from resnet_keras.files import json_text, write_text, writing_to
from resnet_keras.models.registry import named
from resnet_keras.training.record import EpochRow, Record

PROGRAM = "python -m benchmarks.cifar_torch"
SUPPORTED = {"name", "model", "zero_init_gamma", "data", "epochs", "batch_size", "seed", "crop", "pad", "flip"}
SUPPORTED |= {"learning_rate", "momentum", "nesterov", "weight_decay"}
SUPPORTED |= {"decay", "milestones", "factor", "power", "warmup", "warmup_from", "warmup_shape", "floor"}
"""Fields of a recipe that this program minds; all others must be as `TrainConfig` has them."""


@dataclass
class Arguments:
    """Train a CIFAR ResNet, or its plain twin, by one of our recipes in PyTorch."""

    recipe: Annotated[str, Positional]
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    model: str | None = None
    """cifar_resnet20, cifar_plain20 and so on; the recipe's when left out."""
    epochs: int | None = None
    """The recipe's when left out."""
    seed: int = 0
    run_dir: str | None = None
    """The run folder, a new one; runs/torch-RECIPE-DATE-TIME when left out."""


def kind_of(model: str) -> tuple[int, bool]:
    """Depth of the network of a name, and whether it is residual. Raises `UsageError` for one that is not here."""
    named(model)
    found = re.fullmatch(r"cifar_(resnet|plain)(\d+)", model)
    if not found:
        raise UsageError(f"model {model} is not in this program; take cifar_resnet20, cifar_plain20 and so on")
    return int(found[2]), found[1] == "resnet"


def optimizer_of(net: nn.Module, config: Optimizer) -> torch.optim.SGD:
    """SGD, whose decay is of kernels only."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)


def factor_at(schedule: Schedule, total_steps: int, step: int) -> float:
    """What the peak rate is multiplied by at a step, counted from 0."""
    progress, start = step / total_steps, schedule.warmup_from
    if progress < schedule.warmup:
        if schedule.warmup_shape == "constant":
            return start
        return start + (1 - start) * min((step + 1) / (schedule.warmup * total_steps), 1.0)
    if schedule.decay == "constant":
        return 1.0
    if schedule.decay == "step":
        return schedule.factor ** sum(progress >= milestone for milestone in schedule.milestones)
    left = max(1 - (progress - schedule.warmup) / (1 - schedule.warmup), 0.0)
    shapes = {"linear": left, "poly": left**schedule.power, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return schedule.floor + (1 - schedule.floor) * shapes[schedule.decay]


def window_draws(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """For each image the top and the left of its window, and whether it is mirrored: `int64[3, count]`."""
    limit = 2 * augmentation.pad + 1 if augmentation.crop == "pad" else 1
    places = torch.randint(limit, (2, count), generator=generator)
    mirrored = torch.randint(1 + augmentation.flip, (1, count), generator=generator)
    return torch.cat([places, mirrored])


def windows(images: Tensor, draws: Tensor, pad: int, colour: Tensor) -> Tensor:
    """Pad `uint8[N, H, W, C]` by a colour, cut each image's `[H, W]` out, mirror some, as `draws` say."""
    count, height, width, channels = images.shape
    padded = colour.expand(count, height + 2 * pad, width + 2 * pad, channels).clone()
    padded[:, pad : pad + height, pad : pad + width] = images
    top, left, mirrored = draws[:, :, None]
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, columns.flip(1), columns)
    return padded[torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None]]


class Training:
    """A network, what it learns from, and how. Raises `UsageError` for data that are not in memory."""

    def __init__(self, config: TrainConfig, source: Source) -> None:
        train, test, card = source.train, source.test, channel_statistics(source.train, source.channels)
        if card is None or not isinstance(train, ArraySplit) or not isinstance(test, ArraySplit):
            raise UsageError(f"the images of {source.name} are not of one size and in memory, as this program wants")
        self.config, self.steps = config, steps_per_epoch(train, config.batch_size)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        net = CifarNet(
            *kind_of(config.model),
            channels=source.channels,
            classes=len(source.labels),
            zero_init_gamma=config.zero_init_gamma,
        )
        # Channels last takes four fifths of the time on CPU.
        self.net = net.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = optimizer_of(self.net, config.optimizer)
        factor = partial(factor_at, config.schedule, self.steps * config.epochs)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.criterion = nn.CrossEntropyLoss()
        self.train, self.test = (self._tensors(split.images, split.targets) for split in (train, test))
        mean, std = np.array(card)
        self.mean, self.std, self.colour = self._tensors(
            mean.astype("float32"), std.astype("float32"), np.round(mean * 255).astype("uint8")
        )

    def _tensors(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)

    def normalised(self, images: Tensor) -> Tensor:
        """Pixels `uint8[N, H, W, C]` as the network takes them: `float32[N, C, H, W]`, channels last in memory."""
        return ((images.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    def step(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One step of SGD on pixels as they are; the mean loss before it, and how many predictions were correct."""
        logits = self.net(self.normalised(images))
        loss = self.criterion(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.detach(), (logits.argmax(1) == targets).float().sum()

    def epoch(self) -> tuple[float, float]:
        """One epoch of steps on augmented images; their mean loss and accuracy."""
        images, targets = self.train
        augmentation, batch = self.config.augmentation, self.config.batch_size
        pad = augmentation.pad if augmentation.crop == "pad" else 0
        self.net.train()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        order = torch.randperm(len(targets), generator=self.generator)[: self.steps * batch]
        for chosen in order.to(self.device).split(batch):
            draws = window_draws(batch, augmentation, self.generator).to(self.device)
            totals += torch.stack(self.step(windows(images[chosen], draws, pad, self.colour), targets[chosen]))
        loss, correct = totals.tolist()
        return loss / self.steps, correct / (self.steps * batch)

    @torch.inference_mode()
    def tested(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test split, as its images are."""
        self.net.eval()
        loss = correct = 0.0
        for images, targets in zip(*(tensor.split(self.config.batch_size) for tensor in self.test), strict=True):
            logits = self.net(self.normalised(images))
            loss += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
            correct += int((logits.argmax(1) == targets).sum())
        count = len(self.test[1])
        return loss / count, correct / count

    def environment(self) -> dict[str, Any]:
        """Where a figure was measured."""
        gpu = self.device.type == "cuda"
        return {
            "devices": torch.cuda.get_device_name() if gpu else "CPU",
            "threads": torch.get_num_threads(),
            "machine": f"{platform.machine()}, {platform.system()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
        }


def config_of(arguments: Arguments) -> TrainConfig:
    """The recipe with what the arguments change. Raises `UsageError` where it asks for what is not here."""
    config = replace(recipe(arguments.recipe), seed=arguments.seed, data_dir=arguments.data_dir)
    given = {name: getattr(arguments, name) for name in ("model", "epochs")}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    kind_of(config.model)
    missing = [name for name in differences(config, TrainConfig()) if name not in SUPPORTED]
    if config.augmentation.crop not in ("none", "pad"):
        missing.append(f"crop {config.augmentation.crop}")
    if missing:
        raise UsageError(f"{config.name} is not for this program, which has no {', '.join(missing)}")
    return config


def train(config: TrainConfig, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and write the run folder; returns what is in its `metrics.json`."""
    if check_run_folder(folder, config):
        raise UsageError(f"{folder} has a run already; give another --run-dir")
    with contextlib.suppress(RuntimeError):  # too late where TensorFlow runs already
        tf.config.set_visible_devices([], "GPU")  # it only reads the files, and would take all of a GPU's memory
    source = open_source(config.data, config.data_dir)
    training = Training(config, source)
    parameters = sum(parameter.numel() for parameter in training.net.parameters())
    where = training.environment()
    say(f"{config.model}: {parameters:,} parameters; {source.name}: {len(source.train):,} training images")
    say(f"{config.epochs} epochs in batches of {config.batch_size}; {where['devices']}, {where['threads']} threads")
    with run_folder(folder), writing_to(folder):
        write_text(folder / CONFIG, config.to_json() + "\n")
        record, started = Record(folder), time.perf_counter()
        for epoch in range(1, config.epochs + 1):
            row = epoch_row(training, epoch)
            record.rows.append(row)
            record.write_table()
            say(_line(row, config.epochs))
        last = record.rows[-1]
        metrics = {
            "loss": last["val_loss"],
            "accuracy": last["val_accuracy"],
            "examples": len(source.test),
            "epochs": config.epochs,
            "interrupted": False,
            "seconds": time.perf_counter() - started,
            "seed": config.seed,
            "environment": where,
        }
        write_text(folder / METRICS, json_text(metrics) + "\n")
    return metrics


def epoch_row(training: Training, epoch: int) -> EpochRow:
    """Train an epoch, and test where its turn is. Raises `UsageError` for a loss that is no number."""
    config, started = training.config, time.perf_counter()
    loss, accuracy = training.epoch()
    if not math.isfinite(loss):
        raise UsageError(f"the loss is no number in epoch {epoch}: training diverged")
    tests = epoch % config.test_every == 0 or epoch == config.epochs
    val_loss, val_accuracy = training.tested() if tests else (None, None)
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "learning_rate": training.scheduler.get_last_lr()[0],
        "seconds": time.perf_counter() - started,
    }


def _line(row: EpochRow, epochs: int) -> str:
    test = "" if row["val_loss"] is None else f"  test loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.4f}"
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}{test}  "
        f"{row['seconds']:.1f} s"
    )


def main(words: list[str] | None = None) -> int:
    """Run the program; returns the exit code, as those of `resnet-keras` are."""
    try:
        arguments = fill(Arguments, sys.argv[1:] if words is None else words, PROGRAM)
        if arguments is None:
            return 0
        config = config_of(arguments)
        folder = Path(arguments.run_dir).expanduser() if arguments.run_dir else new_folder_name(f"torch-{config.name}")
        config = replace(config, run_dir=str(folder))
        metrics = train(config, folder, partial(print, file=sys.stderr, flush=True))
    except UsageError as error:
        print(f"cifar_torch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cifar_torch: interrupted", file=sys.stderr)
        return 130
    print(f"test accuracy {metrics['accuracy']:.4f}; {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
