"""Pages of the documentation about commands and recipes, drawn from what the program itself reads.

`python -m resnet_keras.cli.reference FOLDER` writes `commands.md` and `recipes.md`; `make docs` calls it.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
from tyro.conf import Positional

from resnet_keras.cli.benchmark_command import BENCHMARKS, Benchmark
from resnet_keras.cli.commands import Experiment, Serve, Train
from resnet_keras.cli.help import texts_of
from resnet_keras.cli.main import COMMANDS
from resnet_keras.config.recipes import RECIPES
from resnet_keras.experiments.experiment_config import ExperimentConfig
from resnet_keras.experiments.table import EXPERIMENTS
from resnet_keras.files import write_text

PARTS = ("Command", "Source", "Expected", "Cost", "Differs")
"""What a recipe's docstring states after its first line."""


def commands_page() -> str:
    """Every command, its flags and their defaults, in Markdown."""
    return f"""# Commands

`resnet-keras COMMAND --help` prints the same of one command. Exit codes: 0, done; 2, a word or a file is wrong, said in
one line; 1, a fault of the program, or of `benchmark --against` that something got slower; 130, interrupted. With
`--json`, standard output has one JSON object and nothing else. A flag may be written with
`_` for `-`, and a value after a space or after `=`.

{"".join(_command(name, kind) for name, kind in COMMANDS.items())}"""


def _command(name: str, kind: type) -> str:
    flags: type = ExperimentConfig if issubclass(kind, Experiment) else kind
    words = list(_positionals(flags))
    more = ""
    if kind is Train:
        words = ["RECIPE"]
        more = (
            "`RECIPE` is the name of a [recipe](recipes.md); the `config.json` of a run, which is repeated; or a run "
            "folder, which is resumed. Defaults below are of a config of no recipe: "
            "`resnet-keras train RECIPE --help` prints those of a recipe. `--optimizer` is the same as `--algorithm`.\n"
        )
    elif kind is Experiment:
        words = ["NAME"]
        rows = "".join(f"| `{row}` | {experiment.summary} |\n" for row, experiment in EXPERIMENTS.items())
        more = (
            f"| `NAME` | what it measures |\n|---|---|\n{rows}\n"
            "The flags are those of [`degradation`](#degradation); the defaults of depths, seeds and epochs are those "
            "of the experiment.\n"
        )
    elif kind is Benchmark:
        words = ["WHAT"]
        rows = "".join(f"| `{row}` | {_description(one).splitlines()[0]} |\n" for row, one in BENCHMARKS.items())
        more = f"| `WHAT` | measures |\n|---|---|\n{rows}\nFlags of all of them:\n"
    listed = "" if kind is Experiment else "\n".join(_entries(flags, "_" if kind is Serve else "-"))
    if kind is Benchmark:
        listed += "".join(_benchmark(row, one) for row, one in BENCHMARKS.items())
    usage = " ".join(["resnet-keras", name, *words, "[flags]"])
    return "\n".join([f"## {name}\n", f"{_description(kind)}\n", f"```sh\n{usage}\n```\n", more, listed, ""])


def _benchmark(name: str, kind: type) -> str:
    """The flags of one benchmark besides those of all."""
    common = set(_entries(Benchmark))
    own = "\n".join(entry for entry in _entries(kind) if entry not in common)
    return f"\n### benchmark {name}\n\n{_description(kind)}\n\n{own}"


def _description(kind: type) -> str:
    """A docstring without its sections, such as examples."""
    return _escaped(docstring_parser.parse(kind.__doc__ or "").description or "")


def _positionals(kind: type) -> Iterator[str]:
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        marks = getattr(hints[field.name], "__metadata__", ())
        if Positional in marks:
            yield next(mark.metavar for mark in marks if hasattr(mark, "metavar"))


def _entries(kind: type, between: str = "-") -> Iterator[str]:
    """A dataclass's flags as a definition list, those of the dataclasses in it under a heading each."""
    hints, texts = get_type_hints(kind, include_extras=True), texts_of(kind)
    words = _positionals(kind)
    inner = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner.append(hint)
            continue
        if Positional in getattr(hint, "__metadata__", ()):
            yield f"`{next(words)}`\n:   {_escaped(texts.get(field.name, ''))}\n"
            continue
        hint = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        flag = f"--{field.name.replace('_', between)}"
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        shown = f"`{flag}`, `--no{between}{flag[2:]}`" if default is True else f"`{f'{flag} {_values(hint)}'.strip()}`"
        yield f"{shown}\n:   {_escaped(texts.get(field.name, ''))}{_default(default)}\n"
    for hint in inner:
        yield f"### {_spaced(hint.__name__)}\n\n{_description(hint)}\n"
        yield from _entries(hint)


def _values(hint: Any) -> str:
    """What stands behind a flag: nothing, one of some words, or a kind of value."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if hint is bool:
        return ""
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, kinds))}}}"
    if get_origin(hint) is dict:
        return "NAME VALUE ..."
    if get_origin(hint) is tuple:
        return f"{_values(kinds[0])} ..."
    return "|".join(_values(kind) for kind in kinds) or getattr(hint, "__name__", "value").upper()


def _default(value: Any) -> str:
    if value is dataclasses.MISSING or value is None or value is False or value in ((), {}, ""):
        return ""
    stated = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" Default: `{stated}`."


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def _escaped(text: str) -> str:
    """A text whose stars and angles Markdown leaves alone; what is in backticks it does anyway."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"[*<]", r"\\\g<0>", part) for part in parts[::2])
    return "`".join(parts)


def recipes_page() -> str:
    """Every recipe as its docstring describes it, in Markdown."""
    return f"""# Recipes

`resnet-keras train NAME` trains a recipe, and `rk.RECIPES["NAME"]()` is its config. Each states its command, source,
what to expect, its cost, and how it differs from its source.

{"".join(_recipe(name) for name in RECIPES)}"""


def _recipe(name: str) -> str:
    summary, _, rest = inspect.cleandoc(RECIPES[name].__doc__ or "").partition("\n\n")
    parts = re.split(rf"(?:^|\s)({'|'.join(PARTS)})([^:.]{{0,40}}): ", " ".join(rest.split()))
    rows = zip(*[iter(parts[1:])] * 3, strict=True)
    stated = "".join(f"- **{part}{more}:** {_escaped(text.strip())}\n" for part, more, text in rows)
    return f"## {name}\n\n{_escaped(' '.join(summary.split()))}\n\n{stated}\n"


def main(folder: Path) -> None:
    """Write the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "commands.md", commands_page())
    write_text(folder / "recipes.md", recipes_page())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
