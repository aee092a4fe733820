"""The metrics of a run: metrics.jsonl, TensorBoard, Weights & Biases, and a progress bar."""

import importlib.util
import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from ace_jax.errors import InputError
from ace_jax.runtime.claim import write_whole
from ace_jax.runtime.progress import progress


def check_wandb(project: str | None) -> None:
    """Raises `InputError` where `log.wandb` names a project and the package is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError("log.wandb: wandb is not installed; python -m pip install wandb")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl, without a last line that a killed run left half-written.

    Raises `InputError` naming the line that is damaged.
    """
    if not file.exists():
        return []
    rows = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            raise InputError(
                f"{file}, line {number}: is damaged; delete the line to go on without it"
            ) from None
    return rows


class MetricsLog:
    """Writes a row a step to metrics.jsonl and TensorBoard, and shows progress.

    Rows of steps that a resumed run will do again, those after `first_step`, are dropped first.
    `wandb` is a Weights & Biases project to log to as well, which shows `settings`.
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
        kept = [row for row in read_rows(path) if row["step"] <= first_step]
        write_whole(path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())
        self._file = path.open("a")
        self._board = SummaryWriter(str(directory), purge_step=first_step + 1)
        self._wandb: Any = None
        if wandb:
            self._wandb = importlib.import_module("wandb").init(
                project=wandb,
                dir=directory,
                id=f"{directory.name}-{directory.stat().st_ino}",  # a resumed run goes on
                resume="allow",
                config=settings,
            )
        self._progress = progress("train", "step", first_step, last_step)

    def write(self, row: Mapping[str, int | float]) -> None:
        """Records a row with step, loss and pairs_per_second; raises `InputError` if it cannot."""
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self._file.name}: cannot be written ({error.strerror}); nothing was saved since "
                "the last checkpoint; make room and run the same command again"
            ) from None
        step, values = int(row["step"]), {key: row[key] for key in row if key != "step"}
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)
        speed = f"{row['pairs_per_second']:.1f} pairs/s"
        self._progress.set_postfix_str(f"loss {row['loss']:.4f}, {speed}", refresh=False)
        self._progress.update(step - self._progress.n)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(kind is not None))
        for output in (self._board, self._file):
            # On a full disk this fails again; why the run ended has been said.
            with suppress(OSError) if kind else nullcontext():
                output.close()
