"""Checkpoints of a run: adapter, optimizer, random key, step and the data's position.

orbax commits a checkpoint atomically: it is complete or absent. The base model is not saved.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import grain
import jax
from orbax.checkpoint import v1 as ocp

from ace_jax.errors import check_positive
from ace_jax.training.state import TrainState


@dataclass(frozen=True)
class Policy:
    """One checkpoint every `every_steps`, of which the latest `keep` are kept.

    Raises `InputError` for counts below one.
    """

    every_steps: int
    keep: int

    def __post_init__(self) -> None:
        check_positive("checkpoint.every_steps", self.every_steps)
        check_positive("checkpoint.keep", self.keep)


def open_checkpoints(directory: Path, policy: Policy) -> ocp.training.Checkpointer:
    """Opens a run's checkpoints; makes the directory."""
    # orbax and absl report every save on standard error, over the progress bar.
    logging.getLogger("absl").setLevel(logging.WARNING)
    policies = ocp.training.save_decision_policies
    return ocp.training.Checkpointer(
        directory.absolute(),
        save_decision_policy=policies.FixedIntervalPolicy(policy.every_steps),
        preservation_policy=ocp.training.preservation_policies.LatestN(policy.keep),
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


def saved_steps(directory: Path) -> list[int]:
    """Returns the steps that a run's checkpoints hold, in order; empty where there are none."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def read_state(directory: Path, step: int, abstract: TrainState) -> TrainState:
    """Returns the state of a run at a saved step; `abstract` has its shapes and shardings."""
    logging.getLogger("absl").setLevel(logging.WARNING)
    with ocp.training.Checkpointer(directory.absolute()) as checkpoints:
        return checkpoints.load_checkpointables(step, {"state": abstract})["state"]
