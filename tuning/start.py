"""A search from its start to its report: what `resnet-keras tune` runs once its flags are read."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from resnet_keras.config.run_folder import run_folder
from resnet_keras.errors import HostLost

from .costs import Bounds
from .results import Results
from .runs import OutOfTime
from .search import Search, SearchConfig, check_folder, claim_folder, set_role, terminated_as_interrupted
from .spaces import find_space


def run_search(
    space: str,
    folder: str | None,
    *,
    config: Mapping[str, Any],
    bounds: Mapping[str, Any],
    changes: Mapping[str, Any],
    trials: int | None,
    retrain: int,
    seconds: float | None,
    role: str = "alone",
    worker: str = "0",
    address: str = "",
    log: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Run a search, or resume the one in its folder.

    Args:
        space: a name of `SPACES` or a file.
        folder: of the search; searches/SPACE when None.
        config: the other fields of `SearchConfig`.
        bounds: the fields of `Bounds`.
        changes: fields of the training config that are the same in every trial.
        trials: at most so many; None for as many as the time allows.
        retrain: seeds with which the best config is trained in full.
        seconds: the time of everything; None for no limit.
        role: alone, chief or worker.
        worker: the id of a worker.
        address: HOST:PORT of the chief.
        log: prints a line.

    Returns:
        The summary of the search; None from a worker.

    Raises:
        UsageError: no such space, or a folder that holds something else.
        HostLost: from a worker whose chief does not answer.
        KeyboardInterrupt: also for SIGTERM; the report of what there is has been written.
    """
    started = time.monotonic()
    name, function = find_space(space)
    settings = SearchConfig(space, **config, changes=dict(changes), bounds=Bounds(**bounds))
    path = Path(folder or Path("searches", name)).expanduser()
    resumes = check_folder(path, settings)
    if role != "alone":
        set_role(role, worker, address)
    deadline = None if seconds is None else started + seconds
    search = Search(function, settings, path, trials=trials, deadline=deadline, role=role, log=log)
    with terminated_as_interrupted():
        if role == "worker":
            try:
                search.search()
            except grpc.RpcError as error:
                raise HostLost(
                    f"the chief at {address} does not answer; start it again if it has gone, then this worker"
                ) from error
            return None
        with run_folder(path, "searches"):
            claim_folder(path, settings)
            log(f"{'resuming the search in' if resumes else 'searching in'} {path}")
            results = Results(search, retrain)
            try:
                results.run_baseline()
                search.last_moment = partial(results.last_moment, deadline)
                search.set_deadline()
                if role == "chief":
                    search.serve(address)
                else:
                    search.search()
            except OutOfTime:
                log("the time is up")
            except KeyboardInterrupt:
                results.write()
                raise
            return results.finish()
