"""The error that is the user's to mend, and the checks that raise it."""

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

DISTRIBUTIONS = {
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "prometheus_client": "prometheus-client",
}
"""Libraries of our extras that are installed by another name than they are imported by."""

GRAPH = ("Graph execution error:", "Detected at node", "Node:", "(most recent call last)", 'File "', "<stack traces")
"""How lines begin that say where in a graph an error was, and not what it is."""

OTHER_NAMES = {
    "amp": ("precision",),
    "arch": ("model",),
    "bs": ("batch_size",),
    "dataset": ("data",),
    "dtype": ("precision",),
    "fp16": ("precision",),
    "gpus": ("strategy",),
    "img_size": ("image_size", "input_shape"),
    "imgsz": ("image_size", "input_shape"),
    "input_size": ("image_size", "input_shape"),
    "logdir": ("run_dir", "output"),
    "lr": ("learning_rate",),
    "network": ("model",),
    "num_classes": ("classes",),
    "num_epochs": ("epochs",),
    "out": ("output", "run_dir"),
    "output": ("run_dir",),
    "output_dir": ("output", "run_dir"),
    "pretrained": ("weights",),
    "tflite": ("litert",),
    "wd": ("weight_decay",),
}
"""What flags and arguments are called elsewhere, and what they are called here: words that no spelling leads to."""


class UsageError(ValueError):
    """The user's words or files are wrong.

    The message is one line: what is wrong, which field or file, how to mend it. The command line prints it and exits
    with code 2; in Python it is a `ValueError`.

    Examples:
        >>> try:
        ...     rk.build_cifar_resnet(21)
        ... except rk.UsageError as error:
        ...     print(error)
        a CIFAR net of basic blocks has 6n+2 layers, so not 21; the nearest are 20 and 26
    """


class HostLost(Exception):  # noqa: N818
    """Another host of the run has gone. The message is one line; the command line prints it and exits with code 1."""


def unknown(what: str, given: object, known: Iterable[object], hint: str = "") -> UsageError:
    """The error for a word that is not in a list: names the nearest words, or all of them where they are few."""
    words = [str(word) for word in known]
    near = nearest(str(given), words)
    if near and (len(words) > 12 or given in OTHER_NAMES):
        tail = f"; did you mean {', '.join(near)}"
    else:
        tail = f"; choose from {', '.join(words)}" if len(words) <= 20 else ""
    return UsageError(f"unknown {what} {str(given)!r}{tail}{f' ({hint})' if hint else ''}")


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """The words that are most likely meant, the likeliest first: what another name is called here, then by spelling."""
    words = {word.strip("-").replace("-", "_"): word for word in known}
    plain = given.strip("-").replace("-", "_").lower()
    meant = [name for name in OTHER_NAMES.get(plain, ()) if name in words]
    return [words[name] for name in meant or difflib.get_close_matches(plain, words, n=5, cutoff=0.5)]


def reason(error: BaseException) -> str:
    """What an error says, in one line and without TensorFlow's node names."""
    lines = plain_words(getattr(error, "strerror", None) or str(error)).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def plain_words(text: str) -> str:
    """A message of TensorFlow's without its graph: no nodes, and of an assertion what it was given to say."""
    text = re.sub(r"\[\[\{\{node .*|\{\{[^{}]*\}\}| \[Op:.*", "", text)
    asserted = re.search(r"assertion failed: \[(.*)\]", text)
    if asserted:
        return asserted[1].replace("] [", " ")
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith(GRAPH))


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Within it, the import of a library that is not installed is a `UsageError` that says how to install it.

    Args:
        what: the command that needs the library.
        extra: the extra of this package that brings it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module in ("resnet_keras", ""):
            raise
        name = DISTRIBUTIONS.get(module, module)
        raise UsageError(f"{what} needs {name}, which is not installed: pip install 'resnet-keras[{extra}]'") from error


def require(good: bool, name: str, rule: str, value: object) -> None:
    """Raise `UsageError` for a field whose value breaks a rule."""
    if not good:
        raise UsageError(f"{name} must be {rule}, not {value}")


def check_types(config: Any) -> None:
    """Every field of a dataclass has its annotated type and, where it is a Literal, one of its words."""
    hints = _hints_of(type(config))
    for name in (field.name for field in dataclasses.fields(config)):
        hint, value = hints[name], getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise unknown(name, value, get_args(hint))
        if not _is(value, hint):
            if words := [word for choice in get_args(hint) for word in get_args(choice)]:
                raise unknown(name, value, words)
            wanted = str(hint) if get_args(hint) else getattr(hint, "__name__", str(hint))
            raise UsageError(f"{name} must be of type {wanted}, not {value!r}")


@functools.cache
def _hints_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(_is(value, choice) for choice in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return is_whole(value)
    return isinstance(value, hint)
