"""The steps of a run: what a step is given, what it says, when it is saved and when to stop.

Metrics are fetched one step late, so that the device never waits for the host.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from ace_jax.runtime.processes import Agreement, leads
from ace_jax.training.checkpoints import Checkpoints
from ace_jax.training.pipeline import TrainingBatch
from ace_jax.training.schedule import Schedule
from ace_jax.training.state import TrainState
from ace_jax.training.step import Metrics, TrainStep
from ace_jax.training.validation import Best, Validation

PROFILED = range(3, 8)  # steps after the first, which compiles


@dataclass(frozen=True)
class Loop:
    """What stays the same from step to step.

    Attributes:
      train_step: the compiled step.
      base: frozen parameters.
      schedule: weights of the losses by step.
      validation: of held-out pairs; None: none.
      last_step: how many steps there are to be.
      pairs: the table that a batch's rows are of.
      mesh: where a batch goes.
      claim: of the run directory.
      stop: set when this process is asked to end.
      profile: a directory to write the profiler's trace of a few steps to; None: no trace.
    """

    train_step: TrainStep
    base: nnx.State
    schedule: Schedule
    validation: Validation | None
    last_step: int
    pairs: pd.DataFrame
    mesh: Mesh
    claim: Claim
    stop: threading.Event
    profile: Path | None

    def run(
        self,
        state: TrainState,
        best: Best | None,
        data: grain.DatasetIterator,
        saved: Checkpoints,
        log: MetricsLog | None,
    ) -> tuple[TrainState, Best | None, bool]:
        """Trains from `state` on; returns the last state, which is saved, and whether it stopped.

        It stops early where any process was asked to, all of them after the same step, and is done
        early where validation says so.

        Args:
          state: as restored; its memory is used for the next one.
          best: the best validation as restored, and returned as it is then; None without any.
          data: at the state's position.
          saved: the run's checkpoints.
          log: None on processes that do not write.

        Raises:
          InputError: a loss that is not finite, or what cannot be written.
        """
        agreement, norms = Agreement(self.mesh), jax.jit(lora_norms)
        clock, first_step = Clock.start(), int(state.step)
        pending: _Pending | None = None

        def settle(done: _Pending | None, validate: bool = False) -> np.ndarray:
            """Waits for a step, logs it, and returns what any process wished in it.

            The last step may be validated, too.
            """
            nonlocal best
            if done is None:
                return np.zeros(2, bool)
            row = done.where | report(done, self.pairs, clock)
            if validate and self.validation and best:
                losses = self.validation.losses(state.lora, done.where["step"])
                best = best.after(losses["validation_loss"], done.where, state.lora)
                row |= losses
                clock.lap()  # the next step's time is its own
            if log:
                log.write(row)
            return np.asarray(done.wishes)

        with profiler(self.profile) as profile:
            for step in range(first_step, self.last_step):
                if self._is_over(best):
                    break
                profile(step - first_step)
                batch = clock.wait_for(data)
                epoch, number, stage = self.schedule.at(step)
                weights = np.float32(stage.alpha), np.float32(stage.beta)
                targets, alpha, beta = place_everywhere((batch.targets, *weights), self.mesh)
                scoring = place_scoring(batch.scoring, self.mesh)
                state, metrics = self.train_step(state, self.base, scoring, targets, alpha, beta)
                metrics = metrics | norms(state.lora)
                wishes = agreement(self.stop.is_set(), saved.is_late())
                where = {"step": step + 1, "epoch": epoch, "stage": number}
                stop, late = settle(pending)
                pending = _Pending(where, metrics, batch, wishes)
                ends = step + 1 == self.last_step or self.schedule.ends_stage(step + 1)
                save = stop or late or ends or saved.is_due(step + 1)
                validate = self.validation is not None and self.validation.is_due(step + 1)
                if save or validate:
                    stop |= settle(pending, validate)[0]
                    pending = None
                if save or stop or self._is_over(best):
                    if leads():
                        self.claim.check_still_there()
                    saved.save(state, data, best)
                if stop:
                    return state, best, True
        return state, best, False

    def _is_over(self, best: Best | None) -> bool:
        return self.validation is not None and best is not None and self.validation.is_over(best)


@dataclass(frozen=True)
class _Pending:
    """A step under way."""

    where: dict[str, int]
    metrics: Metrics
    batch: TrainingBatch
    wishes: Bool[Array | np.ndarray, "2"]


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


def report(done: _Pending, pairs: pd.DataFrame, clock: Clock) -> dict[str, int | float]:
    """Waits for a step and returns its row of metrics.jsonl, but for where it is.

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


@contextmanager
def profiler(directory: Path | None) -> Iterator[Callable[[int], None]]:
    """Gives what to call before each step, counted from the first that this process does.

    It has the profiler write a trace of the steps of `PROFILED`, or of as many as there are.
    """
    running = False

    def before(step: int) -> None:
        nonlocal running
        if directory is None or step not in (PROFILED.start, PROFILED.stop):
            return
        (jax.profiler.stop_trace if running else partial(jax.profiler.start_trace, directory))()
        running = not running

    try:
        yield before
    finally:
        if running:
            jax.profiler.stop_trace()


def _memory() -> dict[str, float]:
    """Returns the most memory that this host's first device has held; a CPU does not say."""
    held = jax.local_devices()[0].memory_stats()
    return {"device_memory_gb": held["peak_bytes_in_use"] / 1e9} if held else {}
