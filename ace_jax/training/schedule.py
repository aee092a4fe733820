"""Which losses a step minimises: the paper's two stages, anchor then effect."""

from collections.abc import Sequence
from dataclasses import dataclass

from ace_jax.errors import InputError


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
    def of(cls, stages: Sequence[tuple[float, float, int]], steps_per_epoch: int) -> "Schedule":
        """Reads `objective.stages`.

        Raises `InputError` unless each is (alpha, beta, epochs), with weights and epochs that make
        a stage.
        """
        for stage in stages:
            if len(stage) != 3 or min(stage) < 0 or stage[0] + stage[1] == 0 or stage[2] < 1:
                raise InputError(
                    f"objective.stages: {stage} is not (alpha, beta, epochs) with weights >= 0, "
                    "not both 0, and epochs >= 1"
                )
        if not stages:
            raise InputError("objective.stages: empty; name at least one (alpha, beta, epochs)")
        return cls(tuple(Stage(*stage) for stage in stages), steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return self.epochs * self.steps_per_epoch

    def at(self, step: int) -> tuple[int, int, Stage]:
        """Returns epoch and number of the stage, both from 1, and the stage of a 0-based step."""
        epoch = step // self.steps_per_epoch
        end = 0
        for number, stage in enumerate(self.stages, start=1):
            end += stage.epochs
            if epoch < end:
                return epoch + 1, number, stage
        raise IndexError(step)
