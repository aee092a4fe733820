"""Checkpoints of a run: adapter, optimizer, random key, step and the data's position.

orbax commits a checkpoint atomically: it is complete or absent. The base model is not saved.
orbax does not notice a bit that flips on the disk, so a digest of all that is saved lies beside it.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32
from orbax.checkpoint import v1 as ocp

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.runtime.processes import on_first
from ace_jax.runtime.progress import log
from ace_jax.training.step import TrainState
from ace_jax.training.validation import Best

DIGESTS = "digests"  # in a checkpoint's metadata, by the names of what is saved
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
        with _one_line(directory, "opened"):
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

        A step that is saved is left. Raises `InputError` for a state that is not finite, where the
        disk is full or the directory gone, or this save or the one before could not be written.
        """
        step, latest = int(state.step), self._orbax.latest
        self._last = time.monotonic()
        if latest and latest.step == step:
            return
        needed = SPARE * sum(leaf.nbytes for leaf in jax.tree.leaves((state, best and best.lora)))
        if not _is_finite(jax.tree.leaves((state.lora, state.optimizer))):
            raise InputError(
                f"step {step} leaves an adapter or moments that are not finite; nothing was "
                "saved since the last checkpoint; try a lower optimizer.learning_rate"
            )
        # orbax finds out in a thread, and a process with such a thread takes minutes to end.
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError:
            raise InputError(
                f"{self._directory} is gone, moved or deleted while the run went on; bring it back "
                "and run the same command again, or start anew"
            ) from None
        if free < needed:
            raise InputError(
                f"{self._directory}: {free / 1e6:,.1f} MB are free, a checkpoint needs "
                f"{needed / 1e6:,.1f} MB; make room and run the same command again"
            )
        with _one_line(self._directory, "written"):
            content = _content(state, data, best)
            digests = {DIGESTS: {name: digest(item) for name, item in content.items()}}
            self._orbax.save_checkpointables_async(
                step, content, force=True, custom_metadata=digests
            )

    def restore(
        self, state: TrainState, data: grain.DatasetIterator, best: Best | None = None
    ) -> tuple[TrainState, Best | None]:
        """Returns what the latest checkpoint has that is not damaged, and moves `data` there.

        The arguments are a fresh run's: they come back where there is no checkpoint, and say which
        shapes and shardings to restore to, which need not be those that were saved. A damaged
        checkpoint is logged and gets another name. Raises `InputError` if all are damaged.
        """
        like = _content(state, data, best)
        paths = [Path(saved.path) for saved in reversed(self._orbax.checkpoints)]
        for number, path in enumerate(paths):
            try:
                loaded = _load(path, like)
            except InputError as error:
                log(f"warning: {error}")
                continue
            on_first(partial(_set_aside, paths[:number]))
            self._orbax.reload()
            data.set_state(loaded["data"])
            return loaded["state"], loaded.get("best")
        if paths:
            raise InputError(
                f"{self._directory}: no checkpoint can be read; delete it to train from the start"
            )
        return state, best

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What ended the run says more than what follows from it.
        with suppress(Exception) if kind else _one_line(self._directory, "written"):
            self._orbax.close()


def read_state(directory: Path, step: int, abstract: TrainState) -> TrainState:
    """Returns the state of a run at a saved step; `abstract` has its shapes and shardings.

    Raises `InputError` if the checkpoint is damaged.
    """
    _quiet()
    return _load(directory.absolute() / str(step), {"state": abstract})["state"]


def _load(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's content; raises `InputError` if it is damaged."""
    with _one_line(path, "read"):
        saved = (ocp.checkpointables_metadata(path).custom_metadata or {}).get(DIGESTS)
        if saved is None:
            raise ValueError("an older version saved it, without digests")
        loaded = ocp.load_checkpointables(path, like)
        damaged = [name for name in like if saved[name] != digest(loaded[name])]
    if damaged:
        raise InputError(f"{path}: the checkpoint's {damaged[0]} is not what was saved")
    return loaded


@contextmanager
def _one_line(path: Path, done: str) -> Iterator[None]:
    # orbax and tensorstore have no error of their own to catch: theirs are of many classes.
    try:
        yield
    except Exception as error:
        raise InputError(f"{path}: the checkpoint cannot be {done} ({reason(error)})") from None


def _set_aside(paths: list[Path]) -> None:
    for path in paths:
        shutil.rmtree(aside := path.with_name(f"{path.name}.damaged"), ignore_errors=True)
        path.rename(aside)


def digest(item: Any) -> str:
    """Returns a digest (hex) of a tree's leaves: arrays on any mesh, numbers and texts."""
    leaves = jax.tree.leaves(item)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    others = [str(leaf) for leaf in leaves if not isinstance(leaf, jax.Array)]
    sums = jax.device_get(list(map(_checksum, arrays)))
    return hashlib.sha256(json.dumps([list(map(int, sums)), others]).encode()).hexdigest()


@jax.jit
def _is_finite(arrays: list[Array]) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays]).all()


@jax.jit
def _checksum(array: Array) -> UInt32[Array, ""]:
    """Returns a sum that any change of one element changes, however the array is sharded."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    bits = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")
    place = jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return _mixed(bits.astype(jnp.uint32) ^ _mixed(place)).sum(dtype=jnp.uint32)


def _mixed(bits: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Spreads each bit over all: murmur3's last step, which is one to one."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * np.uint32(factor)
    return bits ^ (bits >> 16)


def _content(state: TrainState, data: grain.DatasetIterator, best: Best | None) -> dict[str, Any]:
    return {"state": state, "data": data.get_state()} | ({"best": best} if best else {})


def _quiet() -> None:
    """orbax reports every save on standard error, and what fails again as this module does."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
