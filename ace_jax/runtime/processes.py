"""Several processes, one run: joining it, who writes, and what all of them agree on.

Every process builds the same batches from the same seed and puts its own devices' rows on them
(`model.sharding.place_scoring`). Laying out a batch takes milliseconds, so there is no second data
position to keep, and a run may go on with another number of processes.
"""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PyTree

from ace_jax.errors import InputError
from ace_jax.model.sharding import place, replicated

# How long a process that ends waits for the others; at a good end all arrive together.
SHUTDOWN_SECONDS = 30
LONGEST_ERROR = 4096  # bytes
SAVED_AND_STOPPED = 42  # the exit status on which launchers start a job again

Outcome = TypeVar("Outcome")


def join(
    initialize: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process one of several where `distributed.initialize` says so.

    Call it before anything touches a device. Under SLURM, on TPU VMs and in a Kubernetes JobSet
    jax finds by itself what is None.

    Args:
      initialize: whether there are several processes.
      coordinator: host:port that process 0 listens on.
      num_processes: of the run.
      process_id: 0, 1, ...; process 0 writes.

    Raises:
      InputError: something is missing, cannot be joined, or is given without `initialize`.
    """
    given = (coordinator, num_processes, process_id)
    if not initialize:
        if any(value is not None for value in given):
            raise InputError("distributed: set distributed.initialize=True to use its other fields")
        return
    try:
        jax.distributed.initialize(*given, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"distributed: cannot join the other processes ({str(error).splitlines()[0]}); outside "
            "SLURM, TPU VMs and JobSet give distributed.coordinator (host:port), num_processes and "
            "process_id"
        ) from None


def leads() -> bool:
    """Returns whether this is the process that writes; true where there is but one."""
    return jax.process_index() == 0


def say(message: str) -> None:
    """Tells the user once, however many processes there are."""
    if leads():
        print(message, file=sys.stderr, flush=True)


def lead(action: Callable[[], Outcome]) -> Outcome | None:
    """Does something on the leading process and returns its outcome; the others wait, for None.

    An `InputError` there is raised on all.
    """
    if jax.process_count() == 1:
        return action()
    said, outcome = b"", None
    if leads():
        try:
            outcome = action()
        except InputError as error:
            said = str(error).encode()[:LONGEST_ERROR]
    told = np.frombuffer(said.ljust(LONGEST_ERROR, b"\0"), np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(told))
    if message := told.tobytes().rstrip(b"\0").decode(errors="ignore"):
        raise InputError(message)
    return outcome


def as_leading(arrays: PyTree) -> Any:
    """Returns arrays as the leading process has them; all processes give them in equal shapes."""
    return arrays if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(arrays)


class Agreement:
    """Turns the wishes of any process into those of all, at the same step.

    The processes' flags are reduced on the devices as the step's own numbers are, so nothing waits:
    the answer is fetched when the step is.
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(lambda wishes: wishes.any(axis=0), out_shardings=replicated(mesh))

    def __call__(self, *wishes: bool) -> Bool[Array | np.ndarray, "W"]:
        """Returns which wishes any process has; called equally often by all."""
        if self._alone:
            return np.array(wishes)
        devices = self._spread.mesh.size
        return self._any(place(np.tile(np.array(wishes), (devices, 1)), self._spread))


def on_sigterm() -> threading.Event:
    """Returns an event that SIGTERM sets, so that a run can save before it ends."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def leave_if(stop: bool, where: str) -> None:
    """Ends a process that was asked to, when all that it has is saved; `where` is told."""
    if stop:
        say(f"stopped {where}; run the same command again to go on")
        sys.exit(SAVED_AND_STOPPED)
