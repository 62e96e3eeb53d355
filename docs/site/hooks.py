"""Makes pages of files that are not in `docs/`, so that they are written once, and mends what the theme lacks."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
DRAWN = ROOT / "build" / "reference"
"""Pages that `python -m resnet_keras.cli.reference` has drawn from the program."""
NOT_IN_NAV = InclusionLevel.NOT_IN_NAV
LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(?![a-z]+:|#)([^)\s#]+)", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside `docs/`, and the files that pages link to there: examples, the license."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text("utf-8")))
    for path in DRAWN.glob("*.md"):
        files.append(File.generated(config, f"reference/{path.name}", content=path.read_text("utf-8")))
    for page in list(files.documentation_pages()):
        for _, link in LINK.findall(page.content_string):
            path = _in_repository(page.src_uri, link)
            if not path.startswith(("docs/", "..")) and path not in PAGES:
                _add(files, config, ROOT / path)
    return files


def _add(files: Files, config: Any, path: Path) -> None:
    """Add a file from outside `docs/`; of a folder, its files and a page that lists them."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        inside = sorted(one for one in path.iterdir() if one.is_file() and one.name != "README.md")
        for one in inside:
            _add(files, config, one)
        listed = "\n".join(f"- [{one.name}]({one.name})" for one in inside)
        name, made = f"{name}/README.md", {"content": f"# {name}\n\n{listed}\n", "inclusion": NOT_IN_NAV}
    else:
        made = {"abs_src_path": str(path)}
    if path.exists() and files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, **made))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between places in the repository into links between places on the site."""

    def moved(match: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, match[2])
        if page.file.inclusion is NOT_IN_NAV or not (ROOT / path).exists():
            return match[0]  # MkDocs will say so
        target = PAGES.get(path, path.removeprefix("docs/"))
        if (ROOT / path).is_dir():
            target = posixpath.join(target, "README.md")
        return match[1] + posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Name the search for screen readers, which the theme does not; the empty corner of a table is no header."""
    named = output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", named)


def on_post_template(output_content: str, **_: Any) -> str:
    return on_post_page(output_content)  # the page of a wrong address


def _in_repository(page: str, link: str) -> str:
    """The path from the root of the repository to what a page of the site links to."""
    origin = next((source for source, target in PAGES.items() if target == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
