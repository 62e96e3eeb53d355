"""The page at `/`, which classifies an image. One file; it loads nothing from other hosts."""

import html
from functools import cache
from pathlib import Path

from starlette.responses import Response

PAGE = Path(__file__).with_name("page.html")
MODELS = "<!-- models -->"
POLICY = (
    "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
"""What the browser may load: nothing from anywhere else."""


@cache
def _template() -> str:
    return PAGE.read_text("utf-8")


def page(models: list[str]) -> Response:
    """The page, with these models to choose from."""
    options = "".join(f"<option>{html.escape(name)}</option>" for name in models)
    body = _template().replace(MODELS, options)
    return Response(
        body, media_type="text/html", headers={"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"}
    )
