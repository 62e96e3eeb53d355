"""ResNet-50 on 1 to 512 GPUs, on paper: from multiply-adds, bytes of gradients and speeds of links.

Command: python -m benchmarks.many_gpus [--output FILE.png]. Nothing is run: a table in Markdown, and images a second by
GPUs. One number is fitted, `SHARE`; what MLPerf's runs took is beside the rest.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import tyro
from matplotlib.figure import Figure

from resnet_keras.models.registry import COMPLEXITY
from resnet_keras.reports.plots import COLOURS

mpl.use("Agg")
IMAGES = 1_281_167
"""Of ImageNet's training split."""
RESNET50 = json.loads(COMPLEXITY.read_text("utf-8"))["resnet50"]
PEAK = 989e12
"""Floating-point operations a second of an H100 SXM in bfloat16, dense (NVIDIA's data sheet)."""
NVLINK = 450e9
"""Bytes a second and direction between the GPUs of a host (the same)."""
GPUS_OF_A_HOST = 8
HOP = 10e-6
"""Seconds that a message takes however short it is: an assumption, of NCCL over InfiniBand."""
OVERLAP = 2 / 3
"""The backward pass's share of a step, behind which an all-reduce can hide; ours sums behind it, and hides nothing."""


@dataclass(frozen=True)
class Submission:
    """A run of MLPerf Training 3.0, ResNet-50 to 75.9 % (NVIDIA's table of its results, closed division).

    Batches are not in it. They are here the reference convergence points' nearest to 408, 204 and 64 images a GPU, and
    epochs their mean (mlcommons/logging, rcp_checker/training_4.0.0/rcps_resnet.json): an assumption.
    """

    gpus: int
    minutes: float
    batch: int
    epochs: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.epochs * IMAGES / (60 * self.minutes)


SUBMISSIONS = (
    Submission(gpus=8, minutes=13.466, batch=3264, epochs=35.2),
    Submission(gpus=64, minutes=2.664, batch=13056, epochs=45.5),
    Submission(gpus=512, minutes=0.509, batch=32768, epochs=56.0),
)


@dataclass(frozen=True)
class Link:
    """What joins the hosts."""

    name: str
    bytes_per_second: float
    """Of a host, in one direction."""


LINKS = (
    Link("400 Gb/s a GPU", 8 * 50e9),
    Link("100 Gb/s a host", 12.5e9),
    Link("25 Gb/s a host", 3.125e9),
)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Step:
    """The seconds of one step."""

    images: int
    compute: float
    communication: float

    def rate(self, overlap: float = 0.0) -> float:
        """Images a second, where a share of the computing hides communication."""
        return self.images / (self.compute + max(0.0, self.communication - overlap * self.compute))


def rate_of_one(share: float) -> float:
    """Images a second of one GPU: three passes of two operations for each multiply-add, at a share of its peak."""
    return share * PEAK / (6 * RESNET50["macs"])


def step(gpus: int, batch: int, link: Link, bytes_of_a_gradient: int = 4) -> Step:
    """A step of `batch` images on each GPU.

    The gradient is summed by a ring in each host, then a ring of hosts for each of its GPUs' parts, then spread again:
    each link carries 2 (n - 1) / n of what it sums.
    """
    hosts, inside = -(-gpus // GPUS_OF_A_HOST), min(gpus, GPUS_OF_A_HOST)
    size = bytes_of_a_gradient * RESNET50["trainable_parameters"]
    seconds = 2 * (inside - 1) / inside * size / NVLINK + 2 * (inside - 1) * HOP
    seconds += 2 * (hosts - 1) / hosts * size / link.bytes_per_second + 2 * (hosts - 1) * HOP
    return Step(gpus * batch, batch / rate_of_one(SHARE), seconds)


SHARE = SUBMISSIONS[0].rate / SUBMISSIONS[0].gpus / rate_of_one(1.0)
"""Of `PEAK`: fitted to the run of eight GPUs, its tests and everything else included."""


def table() -> str:
    """What the model says beside what MLPerf's runs took, in Markdown."""
    rows = [
        "| GPUs | images a GPU | MLPerf, images/s | model, images/s | MLPerf / model |",
        "|---:|---:|---:|---:|---:|",
    ]
    for run in SUBMISSIONS:
        batch = run.batch // run.gpus
        expected = step(run.gpus, batch, LINKS[0], bytes_of_a_gradient=2).rate(OVERLAP)
        cells = (f"{run.gpus}", f"{batch}", f"{run.rate:,.0f}", f"{expected:,.0f}", f"{run.rate / expected:.2f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def efficiencies() -> str:
    """The share of linear growth at 256 images a GPU, nothing hidden, for gradients in float32 and bfloat16."""
    counts = (8, 16, 64, 512)
    rows = [f"| hosts joined by | gradients | {' | '.join(f'{n} GPUs' for n in counts)} |", "|---|---|" + "---:|" * 4]
    for link in LINKS:
        for name, size in (("float32", 4), ("bfloat16", 2)):
            shares = (step(n, 256, link, size).rate() / (n * rate_of_one(SHARE)) for n in counts)
            rows.append(f"| {link.name} | {name} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return "\n".join(rows)


def draw(output: Path) -> None:
    """Images a second by GPUs: from nothing hidden to all that can be, for each link, and MLPerf's runs."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(COUNTS, [n * rate_of_one(SHARE) for n in COUNTS], color="0.5", linewidth=1, label="linear")
    for colour, link in zip(COLOURS, LINKS, strict=False):
        steps = [step(n, 256, link) for n in COUNTS]
        least, most = ([one.rate(overlap) for one in steps] for overlap in (0.0, OVERLAP))
        axes.plot(COUNTS, least, color=colour, label=link.name)
        axes.fill_between(COUNTS, least, most, color=colour, alpha=0.2, linewidth=0)
    points = [(run.gpus, run.rate) for run in SUBMISSIONS]
    axes.plot(*zip(*points, strict=True), "k^", label="MLPerf Training 3.0")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(COUNTS, [str(n) for n in COUNTS])
    axes.set_xlabel("GPUs, eight a host, 256 images each; gradients in float32")
    axes.set_ylabel("images/s")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(output)


@dataclass
class Arguments:
    """Print the tables, and draw the curve."""

    output: Path | None = None
    """The image; none when left out."""


def main(arguments: Arguments) -> None:
    print(f"{table()}\n\n{efficiencies()}")
    if arguments.output:
        draw(arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
