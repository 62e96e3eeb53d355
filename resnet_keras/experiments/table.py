"""The experiments by name: what each shows, and how it is run unless the flags say otherwise."""

import dataclasses
import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras.errors import unknown
from resnet_keras.experiments.experiment_config import ExperimentConfig, Network
from resnet_keras.progress import say

if TYPE_CHECKING:
    from resnet_keras.data.splits import Source
    from resnet_keras.experiments.finding import Finding


@dataclass(frozen=True)
class Experiment:
    """A row of the table."""

    summary: str
    function: str
    """Module of this package and function in it; imported when it is run, for TensorFlow takes seconds."""
    defaults: ExperimentConfig = field(default_factory=ExperimentConfig)
    networks: tuple[Network, ...] = ("resnet",)
    """What it can be run with."""


EXPERIMENTS: Mapping[str, Experiment] = {
    "degradation": Experiment(
        "Plain against residual nets by depth: training and test error (He et al. 2015, Figure 6).",
        "degradation:degradation",
    ),
    "gradients": Experiment(
        "Gradient norm by block, at initialisation and along training (He et al. 2016, equation 5).",
        "gradients:gradients",
        ExperimentConfig(depths=(20, 44, 110)),
        ("resnet", "vit", "convnext"),
    ),
    "responses": Experiment(
        "How much layers respond and blocks add in trained nets (He et al. 2015, Figure 7).",
        "responses:respond",
        ExperimentConfig(depths=(20, 44), seeds=1),
    ),
    "lesions": Experiment(
        "Trained nets without one of their blocks, or with two swapped (Veit et al. 2016).",
        "lesions:lesion",
        ExperimentConfig(depths=(32,)),
    ),
    "shortcuts": Experiment(
        "Shortcuts A, B, C and none (He et al. 2015, Table 3).",
        "comparisons:shortcuts",
        ExperimentConfig(depths=(32,)),
    ),
    "preactivation": Experiment(
        "Activation after the sum against before the branch (He et al. 2016).",
        "comparisons:preactivation",
        ExperimentConfig(depths=(56,)),
    ),
    "norm-placement": Experiment(
        "Layer norm behind each sum or in the branch, without warm-up and with (Xiong et al. 2020, Figures 1 and 4).",
        "norm_placement:norm_placement",
        ExperimentConfig(network="vit", depths=(2, 6), epochs=3, batch_size=24),
        ("vit", "convnext"),
    ),
    "thousand-layers": Experiment(
        "A net of 1,202 layers that trains (He et al. 2015, section 4.2). Takes long on a CPU.",
        "comparisons:thousand_layers",
        ExperimentConfig(depths=(1202,), seeds=1, epochs=3),
    ),
}


def named_experiment(name: str) -> Experiment:
    """A row of the table. Raises `UsageError` for another name."""
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]


def run_experiment(name: str, settings: ExperimentConfig) -> tuple["Finding", Path]:
    """Run an experiment and write its folder; returns what it found, and the folder.

    Raises:
        UsageError: data, nets or a folder that cannot be.
        KeyboardInterrupt: with how to go on; what was trained is kept.
    """
    from resnet_keras.experiments.finding import write_finding
    from resnet_keras.experiments.grid import open_folder, protocol_of
    from resnet_keras.training.setup import image_format_for, source_of

    experiment = named_experiment(name)
    if settings.network not in experiment.networks:
        raise unknown(f"network of {name}", settings.network, experiment.networks)
    module, _, function = experiment.function.partition(":")
    run: Callable[[ExperimentConfig, Source, Path], Any] = getattr(
        importlib.import_module(f"resnet_keras.experiments.{module}"), function
    )
    protocol = settings.protocol()
    source = source_of(protocol)
    image_format_for(protocol, source)  # which reports what a source lacks, before there is a folder
    folder = open_folder(settings, name)
    if not settings.quiet:
        say(f"{name} in {folder}")
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)  # each net is traced anew, of which TensorFlow would warn
    try:
        finding = run(settings, source, folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"what was trained is in {folder}; the same command with --run-dir {folder} resumes it"
        ) from None
    finally:
        logger.setLevel(before)
    finding = dataclasses.replace(finding, protocol={**protocol_of(settings, folder), **finding.protocol})
    write_finding(folder, finding)
    return finding, folder
