"""Hosts for a test, taken away behind it, and the run to which nothing happens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, why_not
from job import LONG, RESULTS, MakeHosts, Table, run_of, start_job, state_of


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    head = "| fault | seen | seconds | state after the restart |\n|---|---|---|---|\n"
    RESULTS.write_text(head + "".join(f"{row}\n" for row in table.rows))


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    if why := why_not():
        pytest.skip(why)


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[MakeHosts]:
    """Makes the hosts of a job with so many pods."""
    made: list[Hosts] = []

    def make(count: int, **options: Any) -> Hosts:
        names = [f"train-{i}" for i in range(count)]
        made.append(Hosts(names, tmp_path / f"hosts{len(made)}", **options).__enter__())
        return made[-1]

    try:
        yield make
    finally:
        for hosts in made:
            hosts.__exit__(None, None, None)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state in which two hosts end to which nothing happens."""
    with Hosts(["train-0", "train-1"], tmp_path_factory.mktemp("undisturbed")) as hosts:
        commands = start_job(hosts)
        for command in commands:
            assert command.finish(LONG) == 0, command.said
        return state_of(run_of(hosts))
