"""The steps of a run: what a step gets, what is logged, when to save and when to stop.

Metrics are fetched one step late, so that the device never waits for the host.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grain
import jax
import numpy as np
import optax
import pandas as pd
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from ace_jax.errors import InputError
from ace_jax.model.sharding import parameter_path, place_everywhere, place_scoring
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.metrics import MetricsLog
from ace_jax.runtime.processes import Agreement, is_first
from ace_jax.training.checkpoints import Checkpoints
from ace_jax.training.pipeline import TrainingBatch
from ace_jax.training.schedule import Schedule
from ace_jax.training.state import TrainState
from ace_jax.training.step import Metrics, TrainStep
from ace_jax.training.validation import Best, Validator


@dataclass(frozen=True)
class Job:
    """How a run is carried out; nothing here changes what is learned.

    Attributes:
      claim: of the run directory.
      saved: the run's checkpoints.
      log: metrics; None on processes that do not write.
      stop: set when this process is asked to end.
    """

    claim: Claim
    saved: Checkpoints
    log: MetricsLog | None
    stop: threading.Event


@dataclass(frozen=True)
class Loop:
    """What stays the same from step to step.

    Attributes:
      train_step: the compiled step.
      end_stage: what happens to the state after a stage's last step (`state.make_stage_end`).
      base: frozen parameters.
      schedule: weights of the losses by step.
      validator: scores held-out pairs; None: no validation.
      last_step: how many steps there will be.
      pairs: the table that a batch's rows belong to.
      mesh: where a batch goes.
    """

    train_step: TrainStep
    end_stage: Callable[[TrainState, bool], TrainState]
    base: nnx.State
    schedule: Schedule
    validator: Validator | None
    last_step: int
    pairs: pd.DataFrame
    mesh: Mesh

    def run(
        self, state: TrainState, best: Best | None, data: grain.DatasetIterator, job: Job
    ) -> tuple[TrainState, Best | None, bool]:
        """Trains from `state` on; returns the last state, which is saved, and whether it stopped.

        It stops early if any process was asked to, all of them after the same step, and ends early
        if validation says so.

        Args:
          state: as restored; its memory is used for the next one.
          best: the best validation as restored; None without validation.
          data: at the state's position.
          job: how the run is carried out.

        Raises:
          InputError: a loss that is not finite, or a file that cannot be written.
        """
        agreement, norms = Agreement(self.mesh), jax.jit(lora_norms)
        clock, first_step = Clock.start(), int(state.step)
        pending: _Pending | None = None

        def settle(done: _Pending | None, validate: bool = False) -> np.ndarray:
            """Waits for a step, logs it, and returns the flags that any process set in it."""
            nonlocal best
            if done is None:
                return np.zeros(2, bool)
            row = done.where | measured(done, self.pairs, clock)
            if validate and self.validator and best:
                losses = self.validator.losses(state.lora, done.where["step"])
                best = best.after(losses["validation_loss"], done.where, state.lora)
                row |= losses
                clock.lap()  # the next step's time must not include it
            if job.log:
                job.log.write(row)
            return np.asarray(done.flags)

        for step in range(first_step, self.last_step):
            if self._is_over(best):
                break
            batch = clock.wait_for(data)
            epoch, number, stage = self.schedule.at(step)
            weights = np.float32(stage.alpha), np.float32(stage.beta)
            targets, weights = place_everywhere((batch.targets, weights), self.mesh)
            scoring = place_scoring(batch.scoring, self.mesh)
            state, metrics = self.train_step(state, self.base, scoring, targets, weights)
            stage_ends = self.schedule.ends_stage(step + 1)
            if stage_ends:
                state = self.end_stage(state, step + 1 < self.schedule.steps)
            metrics = metrics | norms(state.lora)
            flags = agreement(job.stop.is_set(), job.saved.is_late())
            where = {"step": step + 1, "epoch": epoch, "stage": number}
            stop, late = settle(pending)
            pending = _Pending(where, metrics, batch, flags)
            ends = step + 1 == self.last_step or stage_ends
            save = stop or late or ends or job.saved.is_due(step + 1)
            validate = self.validator is not None and self.validator.is_due(step + 1)
            if save or validate:
                stop |= settle(pending, validate)[0]
                pending = None
            if save or stop or self._is_over(best):
                if is_first():
                    job.claim.check_still_there()
                job.saved.save(state, data, best)
            if stop:
                return state, best, True
        return state, best, False

    def _is_over(self, best: Best | None) -> bool:
        return self.validator is not None and best is not None and self.validator.is_over(best)


@dataclass(frozen=True)
class _Pending:
    """A step under way."""

    where: dict[str, int]
    metrics: Metrics
    batch: TrainingBatch
    flags: Bool[Array | np.ndarray, "2"]


@dataclass
class Clock:
    """Time since the last report, and what of it was spent waiting for data, in seconds."""

    last: float
    waited: float

    @classmethod
    def start(cls) -> "Clock":
        """Starts it."""
        return cls(time.perf_counter(), 0.0)

    def wait_for(self, data: Iterator[TrainingBatch]) -> TrainingBatch:
        """Returns the next batch."""
        before = time.perf_counter()
        batch = next(data)
        self.waited += time.perf_counter() - before
        return batch

    def lap(self) -> tuple[float, float]:
        """Returns the seconds since the last lap, and those waited."""
        now = time.perf_counter()
        elapsed, waited = now - self.last, self.waited
        self.last, self.waited = now, 0.0
        return elapsed, waited


def measured(done: _Pending, pairs: pd.DataFrame, clock: Clock) -> dict[str, int | float]:
    """Waits for a step and returns what it measured: losses, norms, speed, memory.

    Raises `InputError` naming the batch where the loss or its gradient is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
    batch = done.batch
    if not math.isfinite(values["loss"] + values["grad_norm"]):
        contexts = pairs.iloc[batch.rows][["country", "question_id"]].drop_duplicates()
        raise InputError(
            f"step {done.where['step']} has the loss {values['loss']} and a gradient of norm "
            f"{values['grad_norm']} ({', '.join(' '.join(row) for row in contexts.to_numpy())}); "
            "nothing was saved since the last checkpoint; try a lower optimizer.learning_rate, "
            "or check the model's weights"
        )
    seconds, waited = clock.lap()
    speed = {
        "pairs_per_second": len(batch.rows) / seconds,
        "tokens_per_second": batch.scoring.nodes / seconds,
        "seconds": seconds,
        "data_wait": waited / seconds,
    }
    return values | speed | _memory()


def lora_norms(lora: nnx.State) -> Metrics:
    """Returns the norms of the adapter's factors A and B, over all its layers."""
    factors: dict[str, list[Array]] = {"a": [], "b": []}
    for path, leaf in jax.tree.leaves_with_path(lora):
        factors[parameter_path(path)[-1]].append(leaf)
    return {f"lora_{name}_norm": optax.tree.norm(leaves) for name, leaves in factors.items()}


def _memory() -> dict[str, float]:
    """Returns the most memory that this host's first device has held; a CPU does not say."""
    held = jax.local_devices()[0].memory_stats()
    return {"device_memory_gb": held["peak_bytes_in_use"] / 1e9} if held else {}
