"""Which losses a step minimises: the paper's two stages, anchor then effect."""

from dataclasses import dataclass

from ace_jax.errors import check_positive
from ace_jax.recipe import Stage


@dataclass(frozen=True)
class Schedule:
    """Stages one after the other, each a whole number of epochs."""

    stages: tuple[Stage, ...]
    steps_per_epoch: int

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

    def cut_short(self, last_step: int) -> str | None:
        """Says which stages a run of so many steps leaves out or cuts; None if it has them all."""
        if last_step >= self.steps:
            return None
        _, number, _ = self.at(last_step - 1)
        parts = [] if self.ends_stage(last_step) else [f"cuts stage {number} short"]
        if left := self.stages[number:]:
            losses = ", ".join(f"(alpha {each.alpha:g}, beta {each.beta:g})" for each in left)
            parts.append(f"leaves out {len(left)} whole stage(s): {losses}")
        return f"max_steps {last_step} of {self.steps} {' and '.join(parts)}"
