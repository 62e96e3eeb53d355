"""Do the tests see a fault? `python tests/mutations/run.py [NAME ...]`

Each mutation of `table.py` is made in a copy of the working tree, and its tests are run there. It is caught where a
test fails; a test that cannot be collected catches nothing. The same tests must pass in the copy as it is. Exit codes:
0 all are caught, 1 some survive, 2 the table does not fit the tree.
"""

import argparse
import ast
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from table import MUTATIONS, Mutation

TESTS_OF_MAKE = ("-o", "addopts=", "-m", "not slow and not guides and not interop and not backends")
PYTEST = ("-m", "pytest", *TESTS_OF_MAKE, "-q", "-x", "-rfE", "-p", "no:cacheprovider")
"""In one process, up to the first failure, and with nothing left in the tree."""
T = TypeVar("T")
R = TypeVar("R")
FAILED, PASSED = 1, 0
"""Exit codes of pytest; anything else is neither."""


@dataclass(frozen=True)
class Outcome:
    """What one run of pytest came to."""

    code: int | None
    """None where it took too long."""
    failed: str | None
    """The first test that failed, as pytest names it."""
    seconds: float
    output: str


@dataclass(frozen=True)
class Copy:
    """A copy of a tree, and how tests are run in it."""

    root: Path
    python: str
    timeout: float

    def environment(self) -> dict[str, str]:
        # Compiled files are told apart by size and whole seconds alone: a mutation can have both as before.
        return {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}

    def imported_from(self) -> Path:
        """Where the tests' package comes from: it must be the copy, and not an installation."""
        code = "import resnet_keras; print(resnet_keras.__file__)"
        told = subprocess.check_output([self.python, "-c", code], cwd=self.root, env=self.environment(), text=True)
        return Path(told.strip().splitlines()[-1])

    def pytest(self, tests: Sequence[str], *more: str) -> Outcome:
        """Run some tests up to the first that fails."""
        words = [self.python, *PYTEST, f"--basetemp={self.root.parent / 'tmp'}", *more, *tests]
        started = time.monotonic()
        process = subprocess.Popen(
            words,
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, code = process.communicate(timeout=self.timeout)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what the tests have started
            output, code = process.communicate()[0], None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        first = re.search(r"^FAILED (\S+::[^\s\[]+(?:\[.*?\])?)(?: - |$)", output, re.MULTILINE)
        return Outcome(code, first[1] if first else None, time.monotonic() - started, output)

    def try_mutation(self, mutation: Mutation) -> Outcome:
        """The outcome of a mutation's tests with the fault in the copy, which is as before afterwards."""
        path, before, after = mutated(self.root, mutation)
        path.write_text(after, "utf-8")
        try:
            return self.pytest(mutation.tests)
        finally:
            path.write_text(before, "utf-8")


def mutated(root: Path, mutation: Mutation) -> tuple[Path, str, str]:
    """The file of a mutation, its text, and its text with the fault. Raises ValueError where that is not one place."""
    texts = {path: path.read_text("utf-8") for path in sorted(root.glob(mutation.file))}
    found = [(path, match) for path, text in texts.items() for match in re.finditer(mutation.pattern, text)]
    if len(found) != 1:
        raise ValueError(f"{mutation.name}: {mutation.pattern} matches {len(found)} times in {mutation.file}, not once")
    ((path, match),) = found
    before = texts[path]
    after = before[: match.start()] + match.expand(mutation.replacement) + before[match.end() :]
    if ast.dump(ast.parse(after)) == ast.dump(ast.parse(before)):
        raise ValueError(f"{mutation.name} changes nothing")
    return path, before, after


def copy_tree(tree: Path, to: Path) -> None:
    """Copy what git knows of a working tree or does not ignore, as it is now."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=tree, text=True)
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_file():  # a file that was removed is listed until that is committed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tree / name, to / name)


def each(copies: Sequence[Copy], items: Sequence[T], work: Callable[[Copy, T], R]) -> list[R]:
    """Work through items, as many at a time as there are copies; results in their order."""
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(item: T) -> R:
        copy = free.get()
        try:
            return work(copy, item)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, items))


def passes(copy: Copy, tests: tuple[str, ...]) -> bool:
    """Whether tests pass in the copy as it is; says so where they do not."""
    outcome = copy.pytest(tests)
    if outcome.code != PASSED:
        say(f"{outcome.output}\nwithout a mutation pytest exits with {outcome.code}: {' '.join(tests)}")
    return outcome.code == PASSED


def is_caught(copy: Copy, mutation: Mutation) -> bool:
    """Whether a mutation's tests see it; says how."""
    outcome = copy.try_mutation(mutation)
    caught = outcome.code == FAILED and outcome.failed is not None
    if not caught:
        say(outcome.output)
    said = f"caught by {outcome.failed}" if caught else f"SURVIVED: pytest exits with {outcome.code}"
    say(f"{mutation.name:28} {said} in {outcome.seconds:.0f} s")
    return caught


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    here = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations to try; all when left out")
    parser.add_argument("--tree", type=Path, default=here, help="another checkout to copy")
    parser.add_argument("--python", help="interpreter of the tests; the tree's .venv, where it has one, when left out")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time, each in a copy of its own")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for the tests of one mutation")
    parser.add_argument("--list", action="store_true", help="only list the mutations and where they are made")
    given = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if not given.names or mutation.name in given.names]
    if strange := set(given.names) - {mutation.name for mutation in MUTATIONS}:
        parser.error(f"no mutation is called {', '.join(sorted(strange))}")
    tree: Path = given.tree.resolve()
    own = tree / ".venv" / "bin" / "python"
    python = given.python or (str(own) if own.exists() else sys.executable)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copies = [Copy(Path(folder).resolve() / str(i) / "tree", python, given.timeout) for i in range(given.jobs)]
        for copy in copies:
            copy_tree(tree, copy.root)
        wrong = False
        for mutation in chosen:
            try:
                path = mutated(copies[0].root, mutation)[0].relative_to(copies[0].root)
            except ValueError as error:
                wrong = True
                say(str(error))
            else:
                if given.list:
                    say(f"{mutation.name:28} {path}")
        if wrong or given.list:
            return 2 if wrong else 0
        where = copies[0].imported_from()
        say(f"{tree}, copied; resnet_keras is imported from {where}")
        if not where.is_relative_to(copies[0].root):
            say("which is not the copy")
            return 2
        selections = list(dict.fromkeys(mutation.tests for mutation in chosen))
        say(f"{len(selections)} selections of tests, first without a mutation ...")
        if not all(each(copies, selections, passes)):
            return 2
        say("all pass; now with one mutation after the other ...")
        caught = sum(each(copies, chosen, is_caught))
    say(f"{len(chosen)} mutations, {caught} caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
