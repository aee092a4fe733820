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
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.training.step import TrainState
from ace_jax.training.validation import Best

SPARE = 2  # of room for each byte of a checkpoint: its files have more in them than arrays


@dataclass(frozen=True)
class Policy:
    """When a run is saved, besides the ends of its stages, and how many checkpoints it keeps.

    Raises `InputError` for numbers that are not positive; `every_minutes` may be inf.
    """

    every_steps: int
    every_minutes: float
    keep: int

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if not number > 0:
                raise InputError(f"checkpoint.{name}: {number} is not a positive number")


class Checkpoints:
    """A run's checkpoints in a directory, which it makes."""

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
        """Saves the state, the data's position and the best validation, in the background.

        A step that is saved is left. Raises `InputError` where the disk is full, or this save or
        the one before could not be written.
        """
        step = int(state.step)
        self._last = time.monotonic()
        if self._orbax.latest is None or self._orbax.latest.step != step:
            needed = SPARE * sum(
                leaf.nbytes for leaf in jax.tree.leaves((state, best and best.lora))
            )
            # orbax finds out in a thread, and a process with such a thread takes minutes to end.
            if (free := shutil.disk_usage(self._directory).free) < needed:
                raise InputError(
                    f"{self._directory}: {free / 1e6:,.1f} MB are free, a checkpoint needs "
                    f"{needed / 1e6:,.1f} MB; make room and run the same command again"
                )
            with self._one_line("written"):
                content = _content(state, data, best)
                self._orbax.save_checkpointables_async(step, content, force=True)

    def restore(
        self, state: TrainState, data: grain.DatasetIterator, best: Best | None = None
    ) -> tuple[TrainState, Best | None]:
        """Returns what the latest checkpoint has, and moves `data` to its position.

        The arguments are a fresh run's: they come back where there is no checkpoint, and say which
        shapes and shardings to restore to, which need not be those that were saved. Raises
        `InputError` if the checkpoint is damaged.
        """
        if self._orbax.latest is None:
            return state, best
        step, like = self._orbax.latest.step, jax.tree.map(_abstract, _content(state, data, best))
        with self._one_line(f"read; delete {self._directory / str(step)} to go on before it"):
            loaded = self._orbax.load_checkpointables(step, like)
        data.set_state(loaded["data"])
        return loaded["state"], loaded.get("best")

    @contextmanager
    def _one_line(self, done: str) -> Iterator[None]:
        # orbax and tensorstore have no error of their own to catch: theirs are of many classes.
        try:
            yield
        except Exception as error:
            raise InputError(
                f"{self._directory}: a checkpoint cannot be {done} ({reason(error)})"
            ) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What ended the run says more than what follows from it.
        with suppress(Exception) if kind else self._one_line("written"):
            self._orbax.close()


def read_state(directory: Path, step: int, abstract: TrainState) -> TrainState:
    """Returns the state of a run at a saved step; `abstract` has its shapes and shardings."""
    _quiet()
    with ocp.training.Checkpointer(directory.absolute()) as checkpoints:
        return checkpoints.load_checkpointables(step, {"state": abstract})["state"]


def _content(state: TrainState, data: grain.DatasetIterator, best: Best | None) -> dict[str, Any]:
    return {"state": state, "data": data.get_state()} | ({"best": best} if best else {})


def _abstract(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _quiet() -> None:
    """orbax reports every save on standard error, and what fails again as this module does."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
