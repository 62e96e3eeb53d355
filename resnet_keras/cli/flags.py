"""Flags of the command line to the fields of a dataclass, by tyro."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.conf import OmitArgPrefixes

from resnet_keras.cli.help import print_help
from resnet_keras.errors import UsageError, nearest, unknown

T = TypeVar("T")
TITLES = (
    "Required options",
    "Missing argument",
    "Unrecognized options",
    "Parsing error",
    "Value error",
    "Invalid choice",
)
"""Of tyro's boxes."""
IN_WORDS = {
    r"^Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)$": r"\1 must be a whole number, not \2",
    r"^Error parsing (--\S+): could not convert string to float: (.*)$": r"\1 must be a number, not \2",
    r"^Error parsing (--\S+): Could not find valid parse for arguments: \[(.*)\]$": r"\1 cannot be \2",
    r"^Error parsing (--\S+): no type matching (.*) could be instantiated from \[(.*?)\]\. Got errors: .*": (
        r"\1 must be \2, not \3"
    ),
    r"^Error parsing (--\S+): Failed to parse key-value pairs!$": r"\1 takes names and values, NAME VALUE ...",
    r"^Error parsing [A-Za-z][.\w]*: ": "",
    r"^Missing value for argument '(.*)'\. Expected.*$": r"\1 needs a value",
    r"^Unrecognized options: ": "unexpected: ",
}
"""Messages of tyro's, and how we say them."""
COUNTED: dict[str, str] = dict.fromkeys(("--num-classes", "--classes"), "the data says how many classes there are")
"""Flags that other programs have and none of ours needs."""


def fill(
    kind: type[T],
    words: list[str],
    program: str,
    default: T | None = None,
    summary: str | None = None,
    underscores: bool = False,
) -> T | None:
    """Parse flags into a dataclass; a wrong flag is a `UsageError` of one line instead of tyro's box.

    Both --batch-size and --batch_size are read; `underscores` says which of them help and hints name. None where the
    words are a request for help, which is then printed, or for a shell's completion.
    """
    if "-h" in words or "--help" in words:
        print_help(kind, program, default, summary, underscores)
        return None
    printed = io.StringIO()
    tyro._experimental_options["ansi_codes"] = False  # what is printed here is read by us
    try:
        with contextlib.redirect_stderr(printed):
            parse: Any = tyro.cli  # its own annotations have no Annotated
            options: dict[str, Any] = {"use_underscores": underscores}
            if default is not None:
                options["default"] = without_pairs(default)
            filled = parse(Annotated[kind, OmitArgPrefixes], args=words, prog=program, **options)
            given = {word.partition("=")[0].replace("_", "-") for word in words}
            return filled if default is None else _with_pairs(filled, default, given)
    except SystemExit as exit_:
        if not exit_.code:
            return None
        wrong = _unknown_flag(kind, words, program, underscores)
        raise wrong or UsageError(_one_line(printed.getvalue(), program)) from None


def without_pairs(default: Any) -> Any:
    """A dataclass without the names and values that it has by default: tyro would make a flag of each name."""
    empty: dict[str, Any] = {}
    for name, value in vars(default).items():
        if dataclasses.is_dataclass(value):
            empty[name] = without_pairs(value)
        elif isinstance(value, dict):
            empty[name] = {}
    return dataclasses.replace(default, **empty)


def _with_pairs(filled: Any, default: Any, given: set[str]) -> Any:
    """A dataclass with the names and values of its default, but for those that its flags give others."""
    changes: dict[str, Any] = {}
    for name, value in vars(default).items():
        flag = getattr(filled, name)
        if dataclasses.is_dataclass(value):
            changes[name] = _with_pairs(flag, value, given)
        elif isinstance(value, dict) and f"--{name.replace('_', '-')}" not in given:
            changes[name] = value
        elif isinstance(value, dict) and isinstance(flag, dict):
            changes[name] = {**value, **flag}
    return dataclasses.replace(filled, **changes)


def _unknown_flag(kind: type, words: list[str], program: str, underscores: bool) -> UsageError | None:
    """The error for the first flag that a dataclass does not have; None where it has them all."""
    known = list(_flags_of(kind))
    for word in words:
        given = word.partition("=")[0]
        flag = given.replace("_", "-")
        if not flag.startswith("--") or flag in known or flag.replace("--no-", "--", 1) in known:
            continue
        near = [f"--{name[2:].replace('-', '_')}" if underscores else name for name in nearest(flag, known)]
        tail = COUNTED.get(flag) or (f"did you mean {near[0]}" if near else "")
        return UsageError(f"unknown flag {given}{tail and f'; {tail}'} (see {program} --help)")
    return None


def _flags_of(kind: type) -> Iterator[str]:
    """The flags of a dataclass and of those in it."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _flags_of(hints[field.name])
        else:
            yield f"--{field.name.replace('_', '-')}"


def _one_line(box: str, program: str) -> str:
    """The message in tyro's box, in one line. The box is drawn in Unicode or in ASCII; its first line is its title."""
    lines = [re.sub(r"[│╭╮╰╯─]|-{3,}", "", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines if line)
    text = text.split("For full helptext")[0].split("Argument helptext:")[0].replace("(required)", "").strip()
    for title in TITLES:
        text = text.removeprefix(title).strip()
    text = re.sub(rf"^Missing from {program}: ", "missing: ", text)
    if chosen := re.match(r"invalid choice '(.*)' for argument '--(.*)'\. Expected one of \((.*)\)", text):
        given, flag, words = chosen.groups()
        text = str(unknown(flag, given, re.findall(r"'([^']*)'", words)))
    for pattern, words in IN_WORDS.items():
        text = re.sub(pattern, words, text)
    return f"{text or 'wrong arguments'} (see {program} --help)"
