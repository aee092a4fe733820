"""Checkpoints of a run: adapter, optimizer, random key, step and the data's position.

orbax commits a checkpoint atomically: it is complete or absent. The base model is not saved.
"""

import logging
from pathlib import Path

import grain
import jax
from orbax.checkpoint import v1 as ocp

from ace_jax.errors import InputError
from ace_jax.training.state import TrainState


def open_checkpoints(directory: Path, every_steps: int, keep: int) -> ocp.training.Checkpointer:
    """Opens a run's checkpoints: one every `every_steps`, the latest `keep` of them kept.

    Raises `InputError` for counts below one.
    """
    for name, count in (("every_steps", every_steps), ("keep", keep)):
        if count < 1:
            raise InputError(f"checkpoint.{name}: {count} is not a positive number")
    # orbax and absl report every save on standard error, over the progress bar.
    logging.getLogger("absl").setLevel(logging.WARNING)
    policies = ocp.training.save_decision_policies
    return ocp.training.Checkpointer(
        directory.absolute(),
        save_decision_policy=policies.FixedIntervalPolicy(every_steps),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    )


def save(
    checkpoints: ocp.training.Checkpointer, state: TrainState, data: grain.DatasetIterator
) -> None:
    """Saves the state and the data's position, in the background, unless this step is saved."""
    step = int(state.step)
    if checkpoints.latest is None or checkpoints.latest.step != step:
        checkpoints.save_checkpointables_async(step, {"state": state, "data": data}, force=True)


def restore(
    checkpoints: ocp.training.Checkpointer, state: TrainState, data: grain.DatasetIterator
) -> TrainState:
    """Returns the latest checkpoint's state and moves `data` to its position.

    Args:
      checkpoints: of this run.
      state: of step 0: what to return where there is no checkpoint; also shapes and shardings.
      data: a fresh iterator.
    """
    if checkpoints.latest is None:
        return state
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    step = checkpoints.latest.step
    loaded = checkpoints.load_checkpointables(step, {"state": abstract, "data": data})
    return loaded["state"]
