"""Several processes of one job: how they start, what process 0 does alone, what all agree on.

Every process builds the same batches from the same seed and puts its own devices' rows on them, so
a job may go on with another number of processes.
"""

import logging
import platform
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PyTree

from ace_jax.errors import InputError, Stopped
from ace_jax.files import user_cache
from ace_jax.model.sharding import place, replicated
from ace_jax.runtime.progress import LOGGER

# How long a process that ends waits for the others; after success all arrive together.
SHUTDOWN_SECONDS = 30
LONGEST_ERROR = 4096  # bytes
LARGEST_CACHE = 2 * 2**30  # bytes; what was not used for longest goes first

Outcome = TypeVar("Outcome")


def start(
    initialize: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of the job where `distributed.initialize` is set.

    Call it before anything touches a device. Under SLURM, on TPU VMs and in a Kubernetes JobSet,
    jax finds whatever is None by itself. `coordinator` is the host:port on which process 0 listens.
    Raises `InputError` if a field is missing, is set without `initialize`, or the others cannot be
    reached.
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
    if not is_first():
        LOGGER.setLevel(logging.WARNING)


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache, for later runs on this machine.

    `JAX_COMPILATION_CACHE_DIR` names another directory, `JAX_ENABLE_COMPILATION_CACHE=0` keeps
    none, and neither does a cache that cannot be written. Machines have their own directories: a
    program may need what another processor lacks.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        directory = user_cache() / "compiled" / platform.node()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_compilation_cache_max_size", LARGEST_CACHE)


def is_first() -> bool:
    """Returns whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Outcome]) -> Outcome | None:
    """Runs an action on process 0 and returns its result there; the others wait and get None.

    An `InputError` of process 0 is raised on every process.
    """
    if jax.process_count() == 1:
        return action()
    message, outcome = b"", None
    if is_first():
        try:
            outcome = action()
        except InputError as error:
            message = str(error).encode()[:LONGEST_ERROR]
    sent = np.frombuffer(message.ljust(LONGEST_ERROR, b"\0"), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    if text := received.tobytes().rstrip(b"\0").decode(errors="ignore"):
        raise InputError(text)
    return outcome


def from_first(arrays: PyTree) -> Any:
    """Returns process 0's arrays on every process; all pass arrays of the same shapes."""
    return arrays if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(arrays)


class Agreement:
    """Turns the flags of any process into those of all, at the same step, without waiting."""

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(lambda flags: flags.any(axis=0), out_shardings=replicated(mesh))

    def __call__(self, *flags: bool) -> Bool[Array | np.ndarray, "flags"]:
        """Returns which flags any process has set; every process calls it equally often."""
        if self._alone:
            return np.array(flags)
        devices = self._spread.mesh.size
        return self._any(place(np.tile(np.array(flags), (devices, 1)), self._spread))


def stop_on_signal() -> threading.Event:
    """Returns an event that SIGTERM and SIGHUP set, so that a job can save before it ends.

    SIGHUP, of a terminal that is closed, stays ignored under `nohup`.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    return stop


def raise_if(stopped: bool, where: str) -> None:
    """Raises `Stopped` once everything is saved; `where` says how far the job came."""
    if stopped:
        raise Stopped(f"stopped {where}; run the same command again to go on")
