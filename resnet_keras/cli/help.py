"""`--help` of a command, by tyro from the same dataclass, said more shortly than its own.

tyro's own has two flags for each switch, {None} among the values of most, and breaks lines where our source does.
"""

import dataclasses
import functools
import os
import shutil
import sys
import textwrap
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, arg

WIDTH = 80
"""Columns that are used at most, by what tyro does not lay out."""


def print_help(
    kind: type, program: str, default: Any = None, summary: str | None = None, underscores: bool = False
) -> None:
    """Print what a dataclass has for flags.

    Args:
        kind: the dataclass.
        program: the words before the flags.
        default: an instance with the defaults to say; the dataclass's own when left out.
        summary: what the command does; the dataclass's docstring when left out.
        underscores: whether flags are written --like_this.
    """
    tyro._experimental_options["ansi_codes"] = colours(sys.stdout)
    words = (summary or kind.__doc__ or "").split("\n\n")
    # Not as tyro's description, which it does not wrap.
    print("\n\n".join(textwrap.fill(" ".join(part.split()), width()) for part in words), end="\n\n")
    parse: Any = tyro.cli  # its own annotations have no Annotated
    options: dict[str, Any] = {"config": (OmitArgPrefixes, DisallowNone), "use_underscores": underscores}
    try:
        parse(shown(kind, default), args=["--help"], prog=program, description="", **options)
    except SystemExit:
        return


def width() -> int:
    """Columns that there are, of `WIDTH` at most."""
    return min(WIDTH, shutil.get_terminal_size().columns)


def colours(stream: Any) -> bool:
    """Whether to write in colours: to a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def shown(kind: type, default: Any = None) -> type:
    """A dataclass like `kind`, whose help is to be printed."""
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    texts = texts_of(kind)
    fields: list[Any] = []
    for field in dataclasses.fields(kind):
        hint, value = hints[field.name], _default(field, default)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            inner = shown(hint, None if value is dataclasses.MISSING else value)
            fields.append((field.name, inner, dataclasses.field(default_factory=inner)))
            continue
        text = texts.get(field.name, "")
        several = value is dataclasses.MISSING and get_origin(get_args(hint)[0] if get_args(hint) else hint) is tuple
        nothing = several or value is None or value == () or value == {} or value is False
        behaviour: Any = {"help_behavior_hint": ""} if nothing else {}
        if isinstance(value, dict) and value:  # tyro would make a flag of each name
            behaviour = {"help_behavior_hint": f"(default: {' '.join(f'{k} {v}' for k, v in value.items())})"}
            value = {}
        kept = arg(help=text, metavar=_metavar(hint), **behaviour)
        marks = (FlagCreatePairsOff, kept) if value is False else (kept,)
        stated: Any = {} if value is dataclasses.MISSING else {"default_factory": functools.partial(_same, value)}
        fields.append((field.name, Annotated[(hint, *marks)], dataclasses.field(**stated)))
    return dataclasses.make_dataclass(kind.__name__, fields, namespace={"__doc__": kind.__doc__})


def texts_of(kind: type) -> dict[str, str]:
    """What a dataclass says of each of its fields, in one line each."""
    parents = [docstring_parser.parse_from_object(parent) for parent in reversed(kind.__mro__[:-1])]
    return {part.arg_name: " ".join((part.description or "").split()) for parent in parents for part in parent.params}


def _same(value: Any) -> Any:
    return value


def _default(field: dataclasses.Field[Any], default: Any) -> Any:
    if default is not None:
        return getattr(default, field.name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _metavar(hint: Any) -> str | None:
    """A short word for the values of a collection; None where tyro's own or the field's is."""
    if get_origin(hint) is dict:
        return "[NAME VALUE ...]"
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return f"[{getattr(inner, '__name__', 'VALUE').upper()} ...]"
    return None
