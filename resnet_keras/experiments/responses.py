"""How large the layers' responses and the blocks' branches are in trained nets: He et al. 2015, section 4.2, Figure 7.

A block that learns a residual is near the identity where its branch is small beside its shortcut.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.data.format import image_format
from resnet_keras.data.splits import Source
from resnet_keras.experiments.anatomy import branch_sizes, responses
from resnet_keras.experiments.curves import as_rows, means_table
from resnet_keras.experiments.experiment_config import ExperimentConfig, plain, residual
from resnet_keras.experiments.finding import Finding, Plot
from resnet_keras.experiments.grid import train_all, training_images
from resnet_keras.reports.plots import COLOURS

IMAGES = 512
CLEARLY = 0.9
"""Below this share of another, a deviation is clearly smaller."""
Profile = tuple[str, int, int, list[float]]
"""Kind, depth, seed, and a number a layer or block."""


def respond(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Train plain and residual nets, and measure how much their layers respond."""
    runs, layers, sizes = [], [], []
    for run in train_all(settings.nets(plain, residual), settings, source, folder):
        model = run.model()
        images, _ = training_images(source, image_format(model), IMAGES)
        layers.append((run.kind, run.depth, run.seed, responses(model, images)))
        if run.kind == "residual":
            sizes.append((run.kind, run.depth, run.seed, branch_sizes(model, images)))
        runs.append(run)
    plots = (_plot_of_layers(layers), _plot_of_branches(sizes))
    title = f"Responses of layers on {settings.data}"
    return Finding(title, tuple(conclusions(layers, sizes)), plots, as_rows(runs), means_table(runs))


def conclusions(layers: Sequence[Profile], sizes: Sequence[Profile]) -> list[str]:
    """What the responses show."""
    depths = sorted({depth for _, depth, _, _ in layers})

    def mean(profiles: Sequence[Profile], kind: str, depth: int) -> float:
        return statistics.fmean(
            statistics.fmean(values) for own, at, _, values in profiles if (own, at) == (kind, depth)
        )

    deviations = "; ".join(
        f"{depth} layers {mean(layers, 'plain', depth):.2f} and {mean(layers, 'residual', depth):.2f}"
        for depth in depths
    )
    shares = [mean(sizes, "residual", depth) for depth in depths]
    smaller = [d for d in depths if mean(layers, "residual", d) < CLEARLY * mean(layers, "plain", d)]
    where = f"at {', '.join(map(str, smaller))} layers" if smaller else "at none of these depths"
    sentences = [
        f"The mean standard deviation of a layer's response, plain and residual: {deviations}. "
        + f"Residual nets respond clearly less (by a tenth or more) {where}.",
        "A trained block's branch has, on average, "
        + ", ".join(f"{share:.2f}" for share in shares)
        + f" of its shortcut's standard deviation at {', '.join(map(str, depths))} layers.",
    ]
    if len(depths) > 1:
        falls = shares[-1] < CLEARLY * shares[0]
        sentences.append(
            "The deepest net's blocks change what goes through them clearly less than the shallowest's."
            if falls
            else "The deepest net's blocks do not change what goes through them clearly less."
        )
    return sentences


def _plot_of_layers(profiles: Sequence[Profile]) -> Plot:
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    in_order, by_size = figure.subplots(1, 2, sharey=True)
    _lines(in_order, profiles, sort=False)
    _lines(by_size, profiles, sort=True)
    in_order.set(title="In the order of layers", xlabel="Layer (3x3)", ylabel="Standard deviation")
    by_size.set(title="Sorted by size", xlabel="Layer, largest first")
    in_order.legend()
    words = "Response of each 3x3 layer behind its batch norm, trained nets"
    return Plot("responses", words, figure, _numbers(profiles, "layer", "deviation"))


def _plot_of_branches(profiles: Sequence[Profile]) -> Plot:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    _lines(axes, profiles, sort=False)
    axes.set(xlabel="Block", ylabel="Branch / shortcut, standard deviations", ylim=(0, None))
    axes.legend()
    words = "How much each block adds to what goes through it, trained residual nets"
    return Plot("branches", words, figure, _numbers(profiles, "block", "share"))


def _lines(axes: Axes, profiles: Sequence[Profile], *, sort: bool) -> None:
    depths = sorted({depth for _, depth, _, _ in profiles})
    first = min(seed for _, _, seed, _ in profiles)
    for kind, depth, seed, values in profiles:
        axes.plot(
            range(1, len(values) + 1),
            sorted(values, reverse=True) if sort else values,
            "--" if kind == "plain" else "-",
            color=COLOURS[depths.index(depth) % len(COLOURS)],
            lw=1.6 if seed == first else 0.6,
            label=f"{kind}, {depth} layers" if seed == first else None,
        )
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _numbers(profiles: Sequence[Profile], place: str, value: str) -> list[dict[str, float | str]]:
    return [
        {"kind": kind, "depth": depth, "seed": seed, place: i, value: number}
        for kind, depth, seed, values in profiles
        for i, number in enumerate(values, start=1)
    ]
