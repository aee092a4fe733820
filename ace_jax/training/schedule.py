"""Which losses a step minimises: the paper's two stages, anchor then effect."""

import math
from dataclasses import dataclass
from typing import Any

from ace_jax.errors import InputError, check_positive


@dataclass(frozen=True)
class Stage:
    """A run of epochs with fixed weights of the two losses (Eq. 14)."""

    alpha: float
    beta: float
    epochs: int


@dataclass(frozen=True)
class Schedule:
    """Stages one after the other, each a whole number of epochs."""

    stages: tuple[Stage, ...]
    steps_per_epoch: int

    @classmethod
    def of(cls, stages: tuple[Any, ...], steps_per_epoch: int) -> "Schedule":
        """Reads `objective.stages`.

        Raises `InputError` unless each is (alpha, beta, epochs), with weights and epochs that make
        a stage.
        """
        if not stages or not all(map(_is_stage, stages)):
            raise InputError(
                f"objective.stages: {stages} is not a sequence of (alpha, beta, epochs), each with "
                "finite weights >= 0, not both 0, and a whole number of epochs >= 1"
            )
        return cls(tuple(Stage(*stage) for stage in stages), steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return self.epochs * self.steps_per_epoch

    def last_step(self, max_steps: int | None) -> int:
        """Returns the number of steps to do; raises `InputError` for a limit below one."""
        if max_steps is None:
            return self.steps
        check_positive("max_steps", max_steps)
        return min(self.steps, max_steps)

    def at(self, step: int) -> tuple[int, int, Stage]:
        """Returns epoch and number of the stage, both from 1, and the stage of a 0-based step."""
        epoch = step // self.steps_per_epoch
        end = 0
        for number, stage in enumerate(self.stages, start=1):
            end += stage.epochs
            if epoch < end:
                return epoch + 1, number, stage
        raise IndexError(step)

    def ends_stage(self, step: int) -> bool:
        """Returns whether a stage is done after so many steps, at least one."""
        return step == self.steps or self.at(step)[1] != self.at(step - 1)[1]


def _is_stage(stage: Any) -> bool:
    match stage:
        case int() | float() as alpha, int() | float() as beta, int() as epochs:
            return min(alpha, beta) >= 0 and 0 < alpha + beta < math.inf and epochs >= 1
    return False
