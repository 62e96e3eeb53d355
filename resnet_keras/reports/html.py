"""The one writer of pages: Jinja2 templates, every text escaped, every image inside the page, nothing beside it."""

import base64
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from resnet_keras.files import write_text
from resnet_keras.reports.plots import png_of

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Image:
    """An image of a page, and what it shows in words."""

    png: bytes
    words: str

    @property
    def source(self) -> str:
        """The image itself, as a URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    number: float | None = None
    """What it is sorted by; None for text."""


def image_of(figure: Figure, words: str) -> Image:
    """A figure as an image of a page."""
    return Image(png_of(figure), words)


def cell(value: object) -> Cell:
    """A value in a table: whole numbers in groups of three digits, others to four digits, None empty."""
    if value is None:
        return Cell("")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    return Cell(f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}", value)


def rows_of(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of one shape, as the template `table` takes them: the names of the columns, and the cells."""
    head = [spaced(name) for name in table[0]]
    return {"head": head, "rows": [[cell(value) for value in row.values()] for row in table]}


def spaced(name: str) -> str:
    """A field's name as words."""
    return name.replace("_", " ")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A page, from a template of `reports/templates` and its values."""
    return re.sub(r"\n{2,}", "\n", _environment().get_template(template).render(**values))


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page whole or not at all."""
    write_text(path, render(template, **values) + "\n")
