"""Checkpoints of a run: adapter, optimizer, random key, step and the data's position.

orbax commits a checkpoint atomically: it is complete or absent. The base model is not saved.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from ace_jax.errors import InputError, check_positive
from ace_jax.training.state import TrainState
from ace_jax.training.validation import Best

SPARE = 2  # of room for each byte of a checkpoint: its files have more in them than arrays


@dataclass(frozen=True)
class Policy:
    """When a run is saved, besides the ends of its stages.

    Attributes:
      every_steps: steps between two checkpoints.
      every_minutes: minutes after which one is due all the same; inf: never.
      keep: how many are kept, the latest.

    Raises `InputError` for numbers that are not positive.
    """

    every_steps: int
    every_minutes: float
    keep: int

    def __post_init__(self) -> None:
        check_positive("checkpoint.every_steps", self.every_steps)
        check_positive("checkpoint.keep", self.keep)
        if not self.every_minutes > 0:
            raise InputError(
                f"checkpoint.every_minutes: {self.every_minutes} is not a positive number"
            )


class Checkpoints:
    """A run's checkpoints; makes the directory.

    Args:
      directory: of the checkpoints.
      policy: when to save, how many to keep.
    """

    def __init__(self, directory: Path, policy: Policy):
        _quiet()
        self._directory, self._policy = directory, policy
        self._last = time.monotonic()
        with self._one_line("opened"):
            self._orbax = ocp.training.Checkpointer(
                directory.absolute(),
                preservation_policy=ocp.training.preservation_policies.LatestN(policy.keep),
            )

    def is_due(self, step: int) -> bool:
        """Returns whether the state after so many steps is one to save."""
        return step % self._policy.every_steps == 0

    def is_late(self) -> bool:
        """Returns whether the last checkpoint is older than it should get, by this host's clock."""
        return time.monotonic() - self._last > 60 * self._policy.every_minutes

    def save(
        self, state: TrainState, data: grain.DatasetIterator, best: Best | None = None
    ) -> None:
        """Saves the state and the data's position, in the background, unless this step is saved.

        So is the best validation so far, where there is any. Raises `InputError` where the disk is
        full, or it or the save before could not be written.
        """
        step = int(state.step)
        self._last = time.monotonic()
        if self._orbax.latest is None or self._orbax.latest.step != step:
            content = {"state": state, "data": data.get_state()} | ({"best": best} if best else {})
            arrays = jax.tree.leaves((state, best and best.lora))
            self._check_space(sum(leaf.nbytes for leaf in arrays))
            with self._one_line("written"):
                self._orbax.save_checkpointables_async(step, content, force=True)

    def restore(self, state: TrainState, data: grain.DatasetIterator) -> TrainState:
        """Returns the latest checkpoint's state and moves `data` to its position.

        Args:
          state: of step 0: what to return where there is no checkpoint; also shapes and shardings,
            which need not be those it was saved with.
          data: a fresh iterator.

        Raises:
          InputError: the checkpoint is damaged.
        """
        loaded = self._load({"state": state, "data": data.get_state()})
        if loaded is None:
            return state
        data.set_state(loaded["data"])
        return loaded["state"]

    def restore_best(self, best: Best) -> Best:
        """Returns the latest checkpoint's best validation; arguments and errors as of `restore`."""
        loaded = self._load({"best": best})
        return best if loaded is None else loaded["best"]

    def _load(self, like: dict[str, Any]) -> dict[str, Any] | None:
        """Returns parts of the latest checkpoint, with shapes and shardings as given; or None."""
        if self._orbax.latest is None:
            return None
        step = self._orbax.latest.step
        with self._one_line(f"read; delete {self._directory / str(step)} to go on before it"):
            return self._orbax.load_checkpointables(step, jax.tree.map(_abstract, like))

    def _check_space(self, needed: int) -> None:
        # orbax finds out in a thread, and a process with such a thread takes minutes to end.
        free = shutil.disk_usage(self._directory).free
        if free < SPARE * needed:
            raise InputError(
                f"{self._directory}: {free / 1e6:,.1f} MB are free, a checkpoint needs "
                f"{SPARE * needed / 1e6:,.1f} MB; make room and run the same command again"
            )

    @contextmanager
    def _one_line(self, done: str) -> Iterator[None]:
        # orbax and tensorstore have no error of their own to catch: theirs are of many classes.
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{self._directory}: a checkpoint cannot be {done} ({reason})"
            ) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:  # what ended the run says more than what follows from it
            with suppress(Exception):
                self._orbax.close()
            return
        with self._one_line("written"):
            self._orbax.close()


def read_state(directory: Path, step: int, abstract: TrainState) -> TrainState:
    """Returns the state of a run at a saved step; `abstract` has its shapes and shardings."""
    _quiet()
    with ocp.training.Checkpointer(directory.absolute()) as checkpoints:
        return checkpoints.load_checkpointables(step, {"state": abstract})["state"]


def _abstract(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _quiet() -> None:
    """orbax reports every save on standard error, and what fails again as this module does."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
