"""Validation while a run goes on: held-out pairs scored every so many steps, and what follows.

A stage's validations are of its own loss, alpha * anchor + beta * effect with its weights, so they
compare within a stage: the best adapter is that of the stage that the run is in, and patience is
counted anew in each. Only the last stage can be cut short: the others lead up to it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from jax.sharding import Mesh

from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.model.sharding import replicated
from ace_jax.prompts.batches import Scoring, Shapes, Targets
from ace_jax.prompts.encode import Prompt
from ace_jax.recipe import Validation
from ace_jax.runtime.processes import from_first
from ace_jax.training.data import Collate, Examples, TrainingBatch
from ace_jax.training.step import Metrics, Schedule, TrainState, objective

PARTS = ("anchor_loss", "effect_loss")
ValidationStep = Callable[[nnx.State, nnx.State, Scoring, Targets], Metrics]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Best:
    """The best validation of a stage so far; untyped, as a tree of shapes takes its place."""

    loss: Any
    step: Any  # 0 before the first validation
    stage: Any  # from 1
    since: Any  # how many validations came after it
    lora: Any

    @classmethod
    def none_yet(cls, lora: nnx.State) -> "Best":
        """Returns what there is before the first validation; `lora` gives shapes and shardings."""
        return cls(math.inf, 0, 1, 0, copied(lora))

    def after(self, loss: float, where: Mapping[str, int], lora: nnx.State) -> "Best":
        """Returns the best after one more validation; `where` has its `step` and `stage`."""
        if loss < self.loss or where["stage"] != self.stage:
            return Best(loss, where["step"], where["stage"], 0, copied(lora))
        return replace(self, since=self.since + 1)


def copied(lora: nnx.State) -> nnx.State:
    """Returns an adapter with memory of its own: a step takes that of the state before it."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, lora)
    return jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=shardings)(lora)


@dataclass(frozen=True)
class Validator:
    """What a run validates with: `step` scores one of the `batches` of held-out pairs."""

    policy: Validation
    step: ValidationStep
    base: nnx.State
    batches: list[TrainingBatch]
    mesh: Mesh
    schedule: Schedule

    def is_due(self, step: int) -> bool:
        """Returns whether the state after so many steps is one to validate."""
        every = self.policy.every_steps
        return every is not None and (step % every == 0 or self.schedule.ends_stage(step))

    def is_over(self, best: Best) -> bool:
        """Returns whether the last stage has gone on for long enough without gain."""
        last, patience = len(self.schedule.stages), self.policy.patience
        return patience is not None and best.stage == last and best.since >= patience

    def losses(self, lora: nnx.State, step: int) -> dict[str, float]:
        """Returns the losses over the held-out pairs after so many steps, by name.

        All processes return what process 0 computes. Raises `InputError` where one is not finite.
        """
        scored = [self.step(lora, self.base, *each.placed(self.mesh)) for each in self.batches]
        rows = np.array([[row[name] for name in PARTS] for row in jax.device_get(scored)])
        sizes = [len(batch.rows) for batch in self.batches]
        anchor, effect = from_first(np.average(rows, axis=0, weights=sizes)).tolist()
        _, _, stage = self.schedule.at(step - 1)
        loss = stage.alpha * anchor + stage.beta * effect
        if not math.isfinite(loss):
            raise InputError(
                f"step {step} has the loss {loss} over the held-out pairs; nothing was saved since "
                "the last checkpoint; try a lower optimizer.learning_rate"
            )
        names = ("loss", *PARTS)
        return {f"validation_{k}": v for k, v in zip(names, (loss, anchor, effect), strict=True)}

    def chosen(self, state: TrainState, best: Best) -> tuple[nnx.State, int]:
        """Returns the adapter and its step: the best if asked for and the stage has one."""
        step = int(state.step)
        _, stage, _ = self.schedule.at(step - 1)
        if self.policy.select_best and best.step and best.stage == stage:
            return best.lora, best.step
        return state.lora, step


def validation_batches(
    examples: Examples, prompts: list[Prompt], shapes: Shapes, most: int
) -> list[TrainingBatch]:
    """Lays out all pairs in the table's order, in batches of at most so many prompts.

    Where training lists options in both orders, contexts take them in turn.
    """
    batches: list[list[int]] = [[]]
    cells: set[int] = set()
    examples, rows = examples.doubled, np.arange(len(examples.pairs))
    if len(examples.pairs) > len(rows):
        rows += len(rows) * (pd.factorize(examples.pairs["context"])[0][: len(rows)] % 2)
    ends_of = examples.pairs[["cell_0", "cell_1"]].to_numpy()
    for row, ends in zip(rows.tolist(), ends_of[rows].tolist(), strict=True):
        cells |= {*ends}
        if len(cells) > most:
            batches.append([])
            cells = {*ends}
        batches[-1].append(row)
    collate = Collate(examples, prompts, shapes, max(map(len, batches)))
    return [collate([np.array(rows)]) for rows in batches]


def make_validation_step(graph: nnx.GraphDef, anchor: Anchor, mesh: Mesh) -> ValidationStep:
    """Compiles the losses of a batch, without dropout, once per batch shape."""

    @partial(jax.jit, out_shardings=replicated(mesh))
    def step(lora: nnx.State, base: nnx.State, scoring: Scoring, targets: Targets) -> Metrics:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            _, metrics = objective(lora, base, graph, scoring, targets, (1.0, 1.0), anchor)
        return {name: metrics[name] for name in PARTS}

    return step
