"""A search by KerasTuner's chief and three workers, each killed once."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hosts import SHARED, Command, Hosts
from job import LONG, PROGRAM, ROOT, Table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TRIALS = 4


def words_of(role: str) -> list[str]:
    """The arguments of a manifest's container, for a search that takes minutes."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "tuning.yaml").read_text())
    job = next(document for document in documents if document["metadata"]["name"] == f"tune-{role}")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    words = [word.replace("/shared/", f"{SHARED}/").replace("--trials=50", f"--trials={TRIALS}") for word in arguments]
    return [*words, "--epochs=1", "--retrain=0", f"--data-dir={SHARED}/tfds"]


def trials(folder: Path) -> dict[str, str]:
    """The status of each trial that has a file."""
    return {path.parent.name: json.loads(path.read_text())["status"] for path in sorted(folder.glob("**/trial.json"))}


def test_a_search_of_which_each_process_is_killed_once_loses_no_trial(tmp_path: Path, table: Table) -> None:
    names = ["tune-chief-0", "tune-worker-0", "tune-worker-1", "tune-worker-2"]
    with Hosts(names, tmp_path, service="tune") as hosts:
        folder = hosts.shared / "searches" / "digits"

        def start(index: int) -> Command:
            if index == 0:
                return hosts.start(0, [*PROGRAM, *words_of("chief")])
            words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index - 1)) for word in words_of("worker")]
            return hosts.start(index, [*PROGRAM, *words])

        running = [start(index) for index in range(len(names))]
        since = time.monotonic()
        for index in (1, 0, 2, 3):  # each while trials are open
            end = time.monotonic() + LONG
            while "RUNNING" not in trials(folder).values():
                assert time.monotonic() < end, [command.said for command in running]
                time.sleep(0.1)
            time.sleep(3)
            running[index].kill()
            running[index].finish(10)
            running[index] = start(index)
        codes = [command.finish(2 * LONG) for command in running]
        found = trials(folder)
        seen = f"exit codes {codes}; {list(found.values()).count('COMPLETED')} of {TRIALS} trials completed"
        table.add("chief and three workers of a search, each killed -9", seen, time.monotonic() - since, "")
        assert codes == [0, 0, 0, 0], [command.said for command in running]
        assert list(found.values()) == ["COMPLETED"] * TRIALS
        assert json.loads((folder / "best.json").read_text())
