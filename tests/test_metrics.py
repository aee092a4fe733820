import json
import sys
from pathlib import Path

import pytest

from ace_jax.errors import InputError
from ace_jax.runtime.metrics import MetricsLog, check_wandb

ROWS = [{"step": step, "loss": 1 / step, "pairs_per_second": 8.0} for step in (1, 2, 3)]

# As much of Weights & Biases as is used; what it is told goes to a file.
WANDB = """
import json
from pathlib import Path

class Run:
    def __init__(self, file): self.file = file
    def log(self, values, step): print(json.dumps([step, values]), file=self.file)
    def finish(self, exit_code): print(json.dumps(exit_code), file=self.file, flush=True)

def init(project, dir, id, resume, config):
    run = Run((Path(dir) / "told").open("a"))
    print(json.dumps([project, id, resume, config]), file=run.file)
    return run
"""


def test_without_a_terminal_progress_is_plain_lines(tmp_path, capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with MetricsLog(tmp_path, 0, last_step=5) as log:
        for step in range(1, 6):
            log.write({"step": step, "loss": 1 / step, "pairs_per_second": 8.0})
            now += 4
    lines = capsys.readouterr().err.splitlines()
    assert lines == [  # at 0 s, 12 s and the end
        "train: step 1 of 5, loss 1.0000, 8.0 pairs/s",
        "train: step 4 of 5, loss 0.2500, 8.0 pairs/s",
        "train: step 5 of 5, loss 0.2000, 8.0 pairs/s",
    ]


def test_a_terminal_gets_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with MetricsLog(tmp_path, 0, last_step=3) as log:
        for row in ROWS:
            log.write(row)
    shown = capsys.readouterr().err
    assert "\r" in shown and "3/3" in shown


def test_weights_and_biases_gets_the_same_rows(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    check_wandb("ace")
    for first, rows in ((0, ROWS[:2]), (2, ROWS[2:])):
        with MetricsLog(run, first, 3, wandb="ace", settings={"seed": 0}) as log:
            for row in rows:
                log.write(row)
    told = [json.loads(line) for line in (run / "told").read_text().splitlines()]
    started = [line for line in told if isinstance(line, list) and line[0] == "ace"]
    assert started[0] == started[1]  # one run there, too
    assert started[0][2:] == ["allow", {"seed": 0}]
    values = [{"loss": row["loss"], "pairs_per_second": 8.0} for row in ROWS]
    assert [line for line in told if isinstance(line, list) and line[0] != "ace"] == [
        [1, values[0]],
        [2, values[1]],
        [3, values[2]],
    ]
    assert told[3] == told[-1] == 0
    monkeypatch.delitem(sys.modules, "wandb")


def test_a_full_disk_ends_a_run_with_one_line(tmp_path, monkeypatch):
    expected = r"/dev/full: cannot be written \(No space left on device\)"
    with (
        Path("/dev/full").open("w") as full,
        pytest.raises(InputError, match=expected),
        MetricsLog(tmp_path, 0, 3) as log,
    ):
        monkeypatch.setattr(log, "_file", full)
        log.write(ROWS[0])


def test_a_start_that_is_killed_loses_no_row(tmp_path, monkeypatch):
    with MetricsLog(tmp_path, 0, 3) as log:
        for row in ROWS:
            log.write(row)

    def killed(path, _):
        path.open("w").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, 3, 3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
