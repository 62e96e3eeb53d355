"""A training step in PyTorch as a program: eager or compiled, channels last, float32 or under autocast in bfloat16."""

import re

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from benchmarks.torch_networks import CifarNet, torchvision_model
from resnet_keras.benchmarks.variants import Program
from resnet_keras.errors import UsageError

PASSES = 3
CIFAR = re.compile(r"cifar_resnet(\d+)")


def step(
    model: str, image_size: int, batch_size: int, dtype: str, *, compiled: bool = False, classes: int, macs: int
) -> Program:
    """Forward, loss, backward, SGD with momentum and decay, and the count of the correct, on a batch that is there.

    The batch is normalised already, which ours does in the step. `macs` are of an image's forward pass.
    """
    torch.manual_seed(0)
    net = network(model, classes).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch_size, 3, image_size, image_size)).astype("float32")
    images = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(rng.integers(0, classes, batch_size))
    call = torch.compile(net) if compiled else net
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def run() -> None:
        with autocast:
            logits = call(images)
            loss = criterion(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # Read, as ours are each step.
        loss.item()
        (logits.argmax(1) == labels).sum().item()

    facts = {"macs": macs, "passes": PASSES, "dtype": dtype, "threads": torch.get_num_threads()}
    return Program(run, batch_size, {**facts, "version": torch.__version__})


def network(model: str, classes: int) -> nn.Module:
    """The network of a name of ours. Raises `UsageError` for one that PyTorch has not here."""
    if found := CIFAR.fullmatch(model):
        return CifarNet(int(found[1]), classes=classes)
    if model in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        return torchvision_model(model, classes)
    raise UsageError(f"there is no {model} in PyTorch here")
