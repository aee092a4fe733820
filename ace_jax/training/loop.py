"""The steps of a run: what a step gets, what is logged, when to save and when to stop.

Metrics are fetched one step late, so that the device never waits for the host.
"""

import math
import threading
import time
from dataclasses import dataclass

import grain
import jax
import numpy as np
import pandas as pd
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from ace_jax.errors import InputError
from ace_jax.model.sharding import place_everywhere
from ace_jax.runtime.metrics import MetricsLog
from ace_jax.runtime.processes import Agreement
from ace_jax.training.checkpoints import Checkpoints
from ace_jax.training.data import TrainingBatch
from ace_jax.training.step import Metrics, Schedule, StageEnd, TrainState, TrainStep
from ace_jax.training.validation import Best, Validator


@dataclass(frozen=True)
class _Pending:
    """A step under way, and the flags that any process set in it: to stop, late with a save."""

    where: dict[str, int]
    metrics: Metrics
    batch: TrainingBatch
    flags: Bool[Array | np.ndarray, "2"]


@dataclass(frozen=True)
class Loop:
    """What stays the same from step to step."""

    train_step: TrainStep
    end_stage: StageEnd
    base: nnx.State
    schedule: Schedule
    validator: Validator | None
    last_step: int  # how many there will be
    pairs: pd.DataFrame  # the table that a batch's rows belong to
    mesh: Mesh

    def run(
        self,
        state: TrainState,
        best: Best | None,
        data: grain.DatasetIterator,
        saved: Checkpoints,
        log: MetricsLog | None,
        stop: threading.Event,
    ) -> tuple[TrainState, Best | None, bool]:
        """Trains from `state` on; returns the last state, which is saved, and whether it stopped.

        It stops early if any process was asked to, all of them after the same step, and ends early
        if validation says so. The memory of `state` is used for the next one; `log` is None on
        processes that do not write. Raises `InputError` for a loss that is not finite, or a file
        that cannot be written.
        """
        agreement, pending = Agreement(self.mesh), None
        reported, waited = time.perf_counter(), 0.0  # when a row was last made; for data since

        def settle(done: _Pending | None, validate: bool = False) -> tuple[bool, bool]:
            """Waits for a step, logs it and returns its flags."""
            nonlocal best, reported, waited
            if done is None:
                return False, False
            row = done.where | self._finite(done)
            now = time.perf_counter()
            row |= _speed(done.batch, now - reported, waited)
            if validate and self.validator and best:
                losses = self.validator.losses(state.lora, done.where["step"])
                best = best.after(losses["validation_loss"], done.where, state.lora)
                row |= losses
                now = time.perf_counter()  # the next step's time must not include it
            reported, waited = now, 0.0
            if log:
                log.write(row)
            stopping, late = np.asarray(done.flags).tolist()
            return stopping, late

        for step in range(int(state.step), self.last_step):
            if self._is_over(best):
                break
            asked = time.perf_counter()
            batch = next(data)
            waited += time.perf_counter() - asked
            epoch, number, stage = self.schedule.at(step)
            weights = np.float32(stage.alpha), np.float32(stage.beta)
            placed = *batch.placed(self.mesh), place_everywhere(weights, self.mesh)
            state, metrics = self.train_step(state, self.base, *placed)
            ends = self.schedule.ends_stage(step + 1)
            if ends:
                state = self.end_stage(state, step + 1 < self.schedule.steps)
            flags = agreement(stop.is_set(), saved.is_late())
            where = {"step": step + 1, "epoch": epoch, "stage": number}
            stopping, late = settle(pending)
            pending = _Pending(where, metrics, batch, flags)
            due = ends or step + 1 == self.last_step or saved.is_due(step + 1)
            save = stopping or late or due
            validate = self.validator is not None and self.validator.is_due(step + 1)
            if save or validate:
                stopping |= settle(pending, validate)[0]
                pending = None
            if save or stopping or self._is_over(best):
                saved.save(state, data, best)
            if stopping:
                return state, best, True
        return state, best, False

    def _is_over(self, best: Best | None) -> bool:
        return self.validator is not None and best is not None and self.validator.is_over(best)

    def _finite(self, done: _Pending) -> dict[str, int | float]:
        """Returns a step's metrics; raises `InputError` naming the batch if they are not finite."""
        values = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
        if math.isfinite(values["loss"] + values["grad_norm"]):
            return dict(values)
        contexts = self.pairs.iloc[done.batch.rows][["country", "question_id"]].drop_duplicates()
        raise InputError(
            f"step {done.where['step']} has the loss {values['loss']} and a gradient of norm "
            f"{values['grad_norm']} ({', '.join(' '.join(row) for row in contexts.to_numpy())}); "
            "nothing was saved since the last checkpoint; try a lower optimizer.learning_rate, "
            "or check the model's weights"
        )


def _speed(batch: TrainingBatch, seconds: float, waited: float) -> dict[str, float]:
    """Returns a step's speed, and the most memory that a device has held (a CPU does not say)."""
    held = jax.local_devices()[0].memory_stats()
    return {
        "pairs_per_second": len(batch.rows) / seconds,
        "tokens_per_second": batch.scoring.nodes / seconds,
        "seconds": seconds,
        "data_wait": waited / seconds,
    } | ({"device_memory_gb": held["peak_bytes_in_use"] / 1e9} if held else {})
