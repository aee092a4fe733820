import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from ace_jax.errors import InputError
from ace_jax.runtime.metrics import MetricsLog, check_wandb, read_rows
from ace_jax.runtime.processes import stop_on_signal
from ace_jax.runtime.progress import LOGGER, log, progress, show_messages

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


def test_a_terminal_that_is_gone_ends_nothing_and_tells_the_job_to_stop(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(5, "Input/output error")

        def isatty(self):
            return False

    show_messages()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    stop = stop_on_signal()
    monkeypatch.setattr("sys.stderr", Gone())
    log("a message")
    bar = progress("train", "step", 0, 2)
    bar.update()
    bar.close()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.wait(5)
    LOGGER.setLevel(logging.NOTSET)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_where_messages_are(tmp_path, capsys, shown):
    LOGGER.setLevel(logging.INFO if shown else logging.WARNING)
    try:
        with MetricsLog(tmp_path, 0, last_step=3) as log:
            for row in ROWS:
                log.write(row)
    finally:
        LOGGER.setLevel(logging.NOTSET)
    told = capsys.readouterr().err
    assert ("train: step 3 of 3, loss 0.3333, 8.0 pairs/s" in told) == shown
    assert bool(told) == shown


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
    del sys.modules["wandb"]


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

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, 3, 3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_a_damaged_row_is_one_line_and_a_torn_last_one_is_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step"')
    assert [row["step"] for row in read_rows(file)] == [1, 2]
    for damaged in ("{}", "3", "[]", '{"step": "x"}', "\x00"):
        file.write_text(f'{{"step": 1}}\n{damaged}\n')
        with pytest.raises(InputError, match=r"\.jsonl, line 2: is damaged; delete the line"):
            read_rows(file)
