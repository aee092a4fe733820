"""What a run says about itself: metrics.jsonl, TensorBoard and a progress bar."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsLog:
    """Writes a row a step to metrics.jsonl and TensorBoard, and moves the progress bar.

    Rows of steps that a resumed run will do again are dropped first.
    """

    def __init__(self, directory: Path, first_step: int, last_step: int):
        path = directory / "metrics.jsonl"
        *lines, _ = path.read_text().split("\n") if path.exists() else [""]  # the last may be torn
        kept = [line for line in lines if json.loads(line)["step"] <= first_step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(directory), purge_step=first_step + 1)
        self._bar = tqdm(
            total=last_step, initial=first_step, unit="step", desc="train", dynamic_ncols=True
        )

    def write(self, row: Mapping[str, int | float]) -> None:
        """Records one step; `row` holds at least step, loss and pairs_per_second."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, int(row["step"]))
        self._bar.set_postfix(
            loss=f"{row['loss']:.4f}", pairs_per_s=f"{row['pairs_per_second']:.1f}", refresh=False
        )
        self._bar.update()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()
