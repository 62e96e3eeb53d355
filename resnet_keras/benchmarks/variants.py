"""What a benchmark compares: a variant is a row, a program is how a process runs it. Standard library only."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Program:
    """What a process times: a function and how many images one call of it is for.

    `run` takes the arguments of a variant. It may return a dict, which the sample then has besides; its `images` and
    `seconds` take the place of those that are counted and timed outside.
    """

    run: Callable[..., Mapping[str, Any] | None]
    images: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of JSON. The share of the limit is by `macs`, multiply-adds of an image's forward pass, `passes` and `dtype`."""


@dataclass(frozen=True)
class Process:
    """A process of its own in which a program is made once and stays warm.

    A peer's is one like ours: a function of any module that the interpreter finds.
    """

    function: str
    """MODULE:FUNCTION, which takes the arguments and returns a `Program`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of JSON."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides those of this process."""

    def key(self) -> str:
        """The same for two that are the same process."""
        return json.dumps([self.function, self.arguments, self.environment], sort_keys=True)


@dataclass(frozen=True)
class Variant:
    """A row: a program in a process, and the arguments that it is called with.

    Rows of one `group` are compared with the first of them.
    """

    group: str
    """What they have in common, such as "resnet50 224x224 batch 16 float32"."""
    name: str
    process: Process
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of each call, of JSON."""

    @property
    def title(self) -> str:
        """By which the rows of two reports are matched."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class Sample:
    """One timing."""

    images: float
    seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """images/s"""
        return self.images / self.seconds if self.seconds > 0 else 0.0
