"""Pages of Markdown as the tests read them: code blocks with the notes before them, links, headings.

A note is an HTML comment before a block, which readers do not see:

    <!-- test: skip, needs a GPU -->      the block is checked, but not run
    <!-- test: --epochs 1 -->             its commands that have these flags are run with them
    <!-- test: epochs=1 -->               the same of an argument in Python
    <!-- test: files my_images -->        anywhere on a page: what is in the folder where its blocks run
    <!-- test: setup                      Python that runs before the block
    pixels = ...
    -->
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOTE = re.compile(r"<!-- test: (.*?) *-->", re.DOTALL)
FENCE = re.compile(r"^( *)(```+)(\w*)\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?\)|^\[[^\]]+\]: *(\S+)", re.MULTILINE)
QUOTED_OR_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?<!\S)#[^\n]*""", re.DOTALL)
ENDS = "();<>|&"
"""Characters that end a command of the shell."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    """Of the page, at which its code begins."""
    language: str
    code: str
    notes: tuple[str, ...]

    @property
    def skipped(self) -> str:
        """Why it is not run; empty where it is."""
        return next((note.removeprefix("skip, ") for note in self.notes if note.startswith("skip, ")), "")

    @property
    def setup(self) -> str:
        """Python to run before it."""
        return "\n".join(note.removeprefix("setup\n") for note in self.notes if note.startswith("setup\n"))

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that its commands are run with besides their own."""
        return tuple(word for note in self.notes if note.startswith("--") for word in shlex.split(note))

    @property
    def arguments(self) -> dict[str, str]:
        """Arguments in Python, and the values that they are run with in place of those written."""
        pairs = (re.fullmatch(r"(\w+)=(\S+)", note) for note in self.notes)
        return {pair[1]: pair[2] for pair in pairs if pair}

    def __str__(self) -> str:
        return f"{self.page.name}, line {self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, blocks, end = page.read_text("utf-8"), [], 0
    for fence in FENCE.finditer(text):
        notes: list[str] = []
        for note in NOTE.finditer(text, end, fence.start()):
            is_next = re.fullmatch(rf"({NOTE.pattern}|\s)*", text[note.end() : fence.start()], re.DOTALL)
            notes += [note[1]] if is_next else []
        end = fence.end()
        line = text.count("\n", 0, fence.start(4)) + 1
        code = re.sub(rf"^{fence[1]}", "", fence[4], flags=re.MULTILINE)
        blocks.append(Block(page, line, fence[3], code, tuple(notes)))
    return blocks


def files_of(page: Path) -> list[str]:
    """The files that a page's blocks find in their folder."""
    notes = NOTE.findall(page.read_text("utf-8"))
    return [word for note in notes if note.startswith("files ") for word in note.split()[1:]]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text("utf-8")), flags=re.DOTALL)


def links_of(page: Path) -> list[str]:
    """The targets of a page's links and images."""
    return [one or other for one, other in LINK.findall(prose_of(page))]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose_of(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = 0
        while (name := f"{anchor}-{count}" if count else anchor) in anchors:
            count += 1
        anchors.add(name)
    return anchors


def without_comments(code: str) -> str:
    """A shell block without its comments, each command with what continues it on one line."""
    return QUOTED_OR_COMMENT.sub(lambda found: found[1] or "", code).replace("\\\n", " ")


def lines_of(code: str) -> list[str]:
    """The lines of a shell block that have commands."""
    return [line.strip() for line in without_comments(code).splitlines() if line.strip()]


def commands_of(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, without its variables; those in the text of `bash -c` too."""
    lexer = shlex.shlex(without_comments(code), posix=True, punctuation_chars=f"{ENDS}\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set(f"{ENDS}\n"):
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            yield words
        if "bash" in words and "-c" in words:
            yield from commands_of(words[words.index("-c") + 1])
        words = []
