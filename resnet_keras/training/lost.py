"""Where a host of a run has gone: which, and what TensorFlow says of it, in one line. Standard library only."""

import re
import traceback
from collections.abc import Sequence

from resnet_keras.errors import HostLost, UsageError, plain_words, reason

TASK = re.compile(r"/job:(\w+)/(?:replica:0/)?task:(\d+)")
# "Collective ops is aborted by" stands once for each host that passed the message on.
WRAPPED = re.compile(r"^(?:Collective ops is aborted by: |Error reported from \S+: |recvmsg:)+")
REFUSED = "refused: "
"""How the message of a host begins that ends by an error of the user's and tells the others."""
UNHEALTHY = re.compile(r"^The following tasks are unhealthy \((.*)\):?$")


def lost_host(error: BaseException, workers: Sequence[tuple[str, int]], hosts: Sequence[str]) -> str:
    """Which host has gone, as far as TensorFlow says, and what it says.

    Args:
        error: that TensorFlow raised on a host that is left.
        workers: the tasks that train, as (type, index), host 0 first.
        hosts: their addresses.
    """
    text = plain_words(str(error))
    what = UNHEALTHY.sub(r"\1", WRAPPED.sub("", reason(error)))
    # The first that is named is where it began; those behind it passed it on.
    named = next((task for found in TASK.finditer(text) if (task := (found[1], int(found[2]))) in workers), None)
    if named is None and "CoordinationService" in text:  # whose server is on host 0
        named = workers[0]
    if named is None:
        return what
    index = workers.index(named)
    return f"host {index} ({hosts[index]}), {what}"


def host_lost(
    error: BaseException, workers: Sequence[tuple[str, int]], hosts: Sequence[str], folder: object
) -> HostLost | UsageError:
    """The error of a run that cannot go on, in place of TensorFlow's: a `UsageError` where the other had one."""
    words = lost_host(error, workers, hosts)
    # A pool of threads that TensorFlow leaves open in one of these would end with a traceback when Python does.
    traceback.clear_frames(error.__traceback__)
    head, told, why = words.partition(f", {REFUSED}")
    if told:
        return UsageError(f"{head}: {why}")
    return HostLost(
        f"another host of the run has gone: {words}; start the same command on all of them, and the run resumes from "
        f"the last checkpoint in {folder}"
    )
