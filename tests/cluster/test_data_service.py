"""Batches from tf.data's service: a dispatcher and two workers, each on a host of its own, one of which is lost."""

import sys
import time

import pytest
from hosts import SHARED
from job import LONG, PROGRAM, SMALL, MakeHosts, Table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# As docs/training.md has them.
DISPATCHER = """
import tensorflow as tf
service = tf.data.experimental.service
dispatcher = service.DispatchServer(service.DispatcherConfig(port=5000))
print("serving", flush=True)
dispatcher.join()
"""
WORKER = """
import socket
import tensorflow as tf
service = tf.data.experimental.service
worker = service.WorkerServer(service.WorkerConfig(
    dispatcher_address="train-1:5000", worker_address=f"{socket.gethostname()}:5001", port=5001))
print("serving", flush=True)
worker.join()
"""


def test_a_run_outlives_a_worker_of_its_data_service_that_comes_again(make_hosts: MakeHosts, table: Table) -> None:
    hosts = make_hosts(4)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    dispatcher = hosts.start(1, [sys.executable, "-c", DISPATCHER], quiet)
    dispatcher.wait_for("serving", LONG)
    workers = [hosts.start(index, [sys.executable, "-c", WORKER], quiet) for index in (2, 3)]
    for worker in workers:
        worker.wait_for("serving", LONG)
    run_dir = hosts.shared / "run"
    words = ["train", "digits", "--data-dir", f"{SHARED}/tfds", "--run-dir", f"{SHARED}/run", *SMALL]
    command = hosts.start(0, [*PROGRAM, *words, "--epochs", "12", "--data-service", "grpc://train-1:5000"])
    while not list(run_dir.glob("checkpoints/step-*.npz")):
        assert command.process.poll() is None, command.said
        time.sleep(0.02)
    since = time.monotonic()
    workers[1].kill()
    workers[1].finish(10)
    hosts.start(3, [sys.executable, "-c", WORKER], quiet)  # as what runs it would
    code = command.finish(LONG)
    table.add_ends(
        "a worker of the data service killed -9, and started again",
        [command],
        time.monotonic() - since,
        "never repeats",
    )
    assert code == 0, command.said
    assert (run_dir / "metrics.json").is_file()
