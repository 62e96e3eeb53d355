"""Flags of the command line to the fields of a dataclass, by tyro."""

import contextlib
import io
import re
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes

from resnet_keras.errors import UsageError

T = TypeVar("T")


def fill(kind: type[T], words: list[str], program: str, default: T | None = None) -> T | None:
    """Parse flags into a dataclass; a wrong flag is a `UsageError` of one line instead of tyro's box."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parse: Any = tyro.cli  # its own annotations have no Annotated
            options = {} if default is None else {"default": default}
            return parse(Annotated[kind, OmitArgPrefixes], args=words, prog=program, **options)
    except SystemExit as exit_:
        if not exit_.code:
            return None
        raise UsageError(_one_line(printed.getvalue(), program)) from None


def _one_line(box: str, program: str) -> str:
    """The message in tyro's box, in one line. The box is drawn in Unicode or in ASCII; its first line is its title."""
    lines = [re.sub(r"[│╭╮╰╯─]|-{3,}", "", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines if line)
    text = text.split("For full helptext")[0].split("Argument helptext:")[0].replace("(required)", "").strip()
    for title in ("Required options", "Unrecognized options", "Parsing error", "Value error", "Invalid choice"):
        text = text.removeprefix(title).strip()
    text = re.sub(rf"^Missing from {program}: ", "missing: ", re.sub(r"^Error parsing config[.\w]*: ", "", text))
    return f"{text or 'wrong arguments'} (see {program} --help)"
