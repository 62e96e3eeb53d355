"""Which host has gone, from what TensorFlow 2.21 said when one of three was killed, and when its link was cut."""

import weakref

import pytest

from resnet_keras.errors import UsageError
from resnet_keras.training.lost import host_lost, lost_host

WORKERS = [("worker", i) for i in range(3)]
HOSTS = ["train-0:12345", "train-1:12345", "train-2:12345"]
OWN = "{{function_node __wrapped__CollectiveReduceV2_device_/job:worker/replica:0/task:1/device:CPU:0}} "
END = "The error could be from a previous operation. Restart your program to reset."
RESET = f"""Collective ops is aborted by: recvmsg:Connection reset by peer
Additional GRPC error information from remote target /job:worker/replica:0/task:2 while calling \
/tensorflow.WorkerService/RecvBuf:
:UNKNOWN:Error received from peer  {{grpc_status:14, grpc_message:"recvmsg:Connection reset by peer"}}
{END}"""
SILENT = f"""Collective ops is aborted by: Error reported from /job:worker/task:2: \
The following tasks are unhealthy (stopped sending heartbeats):
/job:worker/replica:0/task:2
The tasks have crashed. Check the task logs for an earlier error.
{END}"""
PASSED_ON = f"""
Additional GRPC error information from remote target /job:worker/replica:0/task:0 while calling \
/tensorflow.WorkerService/RecvBuf:
{END} [Op:CollectiveReduceV2] name: """


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RESET, "host 2 (train-2:12345), Connection reset by peer"),
        (f"Collective ops is aborted by: {RESET}{PASSED_ON}", "host 2 (train-2:12345), Connection reset by peer"),
        (SILENT, "host 2 (train-2:12345), stopped sending heartbeats"),
        (
            "Collective ops is aborted by: Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat\n",
            "host 0 (train-0:12345), Deadline Exceeded",
        ),
        ("Collective ops is aborted by: Socket closed\n", "Socket closed"),
        ("from /job:ps/task:1: Socket closed\n", "from /job:ps/task:1: Socket closed"),
    ],
)
def test_the_host_is_named_where_tensorflow_names_it(text: str, words: str) -> None:
    assert lost_host(RuntimeError(OWN + text), WORKERS, HOSTS) == words


def test_a_chief_is_host_0() -> None:
    workers = [("chief", 0), ("worker", 0), ("worker", 1)]
    assert lost_host(RuntimeError(OWN + RESET.replace("task:2", "task:1")), workers, HOSTS).startswith("host 2 ")


class Pool:
    """What a frame of TensorFlow's holds."""


def test_nothing_is_kept_of_the_frames_that_failed() -> None:
    kept = []

    def fails() -> None:
        pool = Pool()
        kept.append(weakref.ref(pool))
        raise RuntimeError(OWN + RESET)

    with pytest.raises(RuntimeError) as caught:
        fails()
    lost = host_lost(caught.value, WORKERS, HOSTS, "runs/a")
    assert kept[0]() is None
    assert str(lost).startswith("another host of the run has gone: host 2 (train-2:12345), Connection reset by peer; ")


def test_what_another_host_refused_is_this_ones_error() -> None:
    text = "Error reported from /job:worker/task:0: refused: cannot write to /shared: No space left; free it"
    for passed_on in ("", "Collective ops is aborted by: "):
        error = host_lost(RuntimeError(f"{OWN}{passed_on}{text}\n{END}"), WORKERS, HOSTS, "runs/a")
        assert isinstance(error, UsageError)
        assert str(error) == ("host 0 (train-0:12345): cannot write to /shared: No space left; free it")
