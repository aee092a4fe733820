"""What a run says about itself: metrics.jsonl, TensorBoard, Weights & Biases and its progress."""

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from ace_jax.errors import InputError

SECONDS_A_LINE = 10  # between two lines of progress, where there is no terminal
Row = Mapping[str, int | float]


def check_wandb(project: str | None) -> None:
    """Raises `InputError` where `log.wandb` names a project and the package is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError("log.wandb: wandb is not installed; python -m pip install wandb")


class MetricsLog:
    """Writes a row a step to metrics.jsonl and TensorBoard, and shows progress.

    Rows of steps that a resumed run will do again are dropped first.

    Args:
      directory: of the run.
      first_step: how many steps are done.
      last_step: how many there are to be.
      wandb: a Weights & Biases project to log to as well.
      settings: what Weights & Biases shows as the run's config.
    """

    def __init__(
        self,
        directory: Path,
        first_step: int,
        last_step: int,
        wandb: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        path = directory / "metrics.jsonl"
        *lines, _ = path.read_text().split("\n") if path.exists() else [""]  # the last may be torn
        kept = [line for line in lines if json.loads(line)["step"] <= first_step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(directory), purge_step=first_step + 1)
        self._wandb = _wandb_run(wandb, directory, settings) if wandb else None
        terminal = sys.stderr.isatty()
        self._progress = (Bar if terminal else Lines)(first_step, last_step)

    def write(self, row: Row) -> None:
        """Records one step; `row` holds at least step, loss and pairs_per_second.

        Raises `InputError` where it cannot be written.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self._file.name}: cannot be written ({error.strerror}); nothing was saved since "
                "the last checkpoint; make room and run the same command again"
            ) from None
        values = {name: value for name, value in row.items() if name != "step"}
        for name, value in values.items():
            self._board.add_scalar(name, value, int(row["step"]))
        if self._wandb:
            self._wandb.log(values, step=int(row["step"]))
        self._progress.show(row)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(kind is not None))
        # On a full disk these fail again; why the run ended has been said.
        with suppress(OSError) if kind else nullcontext():
            self._board.close()
        with suppress(OSError) if kind else nullcontext():
            self._file.close()


class Bar:
    """Progress in a terminal."""

    def __init__(self, first_step: int, last_step: int):
        self._bar = tqdm(
            total=last_step, initial=first_step, unit="step", desc="train", dynamic_ncols=True
        )

    def show(self, row: Row) -> None:
        """Moves on by a step."""
        self._bar.set_postfix(
            loss=f"{row['loss']:.4f}", pairs_per_s=f"{row['pairs_per_second']:.1f}", refresh=False
        )
        self._bar.update()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class Lines:
    """Progress in a file: plain lines, of the first step, the last and every few seconds."""

    def __init__(self, first_step: int, last_step: int):
        self._last_step = last_step
        self._next = time.monotonic()

    def show(self, row: Row) -> None:
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if now < self._next and row["step"] != self._last_step:
            return
        self._next = now + SECONDS_A_LINE
        print(
            f"train: step {row['step']} of {self._last_step}, loss {row['loss']:.4f}, "
            f"{row['pairs_per_second']:.1f} pairs/s",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Has nothing to do."""


def _wandb_run(project: str, directory: Path, settings: dict[str, Any] | None) -> Any:
    import wandb  # optional; `check_wandb` has found it

    return wandb.init(
        project=project,
        dir=directory,
        id=f"{directory.name}-{directory.stat().st_ino}",  # a resumed run goes on
        resume="allow",
        config=settings,
    )
