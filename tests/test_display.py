"""Progress as the layers tell it."""

import subprocess
import sys
from pathlib import Path

import pytest
from display_log import DisplayLog

from resnet_keras.files import writing_to
from resnet_keras.progress import SILENT, Progress, clock, counted, has_display, progress, shown_by


def test_a_display_is_told_how_far_a_task_is() -> None:
    log = DisplayLog()
    with shown_by(log), progress("reading", 3, "images") as task:
        task.add()
        task.to(2, ["slow"], total=4)
    assert log.told == [("begin", "reading", 3, "images"), ("to", 1, 3), ("to", 2, "slow", 4), ("end",)]


def test_items_are_counted_when_they_are_done_with() -> None:
    log = DisplayLog()
    with shown_by(log):
        for item in counted("ab", "reading", 2):
            log.told.append((item,))
    assert log.told == [("begin", "reading", 2, "images"), ("a",), ("to", 1, 2), ("b",), ("to", 2, 2), ("end",)]


def test_a_task_ends_with_an_error() -> None:
    log = DisplayLog()
    with shown_by(log), pytest.raises(ValueError, match="oh"), progress("reading"):
        raise ValueError("oh")
    assert log.told[-1] == ("end",)


def test_nothing_is_shown_without_a_display(capfd: pytest.CaptureFixture[str]) -> None:
    assert not has_display()
    Progress("reading", 3).add()
    with shown_by(SILENT):
        assert has_display()
        assert list(counted(range(3), "reading", 3)) == [0, 1, 2]
    assert not has_display()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_reader_that_has_gone_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), writing_to(tmp_path):
        raise BrokenPipeError


SAYS = """
import sys
sys.argv = ["bin/resnet-keras"]  # which does not import TensorFlow before it is needed
from resnet_keras.files import writing_to
from resnet_keras.progress import say
sys.stdin.readline()
say("a")
say("b")
print("done")
"""


def test_who_prints_goes_on_without_a_reader() -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SAYS]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr
        process.stderr.close()
        assert process.communicate("\n")[0] == "done\n"
    assert process.returncode == 0
