"""Training in two processes of four devices each, as on two hosts; gloo carries the collectives."""

import shutil
import signal
import time

import numpy as np
import pytest
from processes import ended, start, statuses
from safetensors.numpy import load_file
from test_train import metrics_of


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, tmp_path_factory):
    """The same run in one process and in two; what the two said."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    one, two = (start(alone, tiny_checkpoint, 1), start(together, tiny_checkpoint, 2))
    said = ended(two)
    assert statuses(two) == [0, 0], said
    assert "error" not in (alone_said := ended(one)[0])
    assert statuses(one) == [0], alone_said
    return alone, together, said


def adapter(workdir):
    return load_file(workdir / "adapter" / "adapter_model.safetensors")


def test_two_processes_do_what_one_does(runs):
    alone, together, _ = runs
    rows = metrics_of(alone), metrics_of(together)
    assert len(rows[0]) == len(rows[1]) == 8
    for name in ("loss", "grad_norm", "lora_b_norm", "option_mass"):
        one, two = ([row[name] for row in table] for table in rows)
        np.testing.assert_allclose(two, one, rtol=1e-5, err_msg=name)
    one, two = ({row["step"]: row.get("validation_loss") for row in table} for table in rows)
    assert [step for step in one if one[step]] == [step for step in two if two[step]] == [2, 3, 6]
    for step in (2, 3, 6):
        assert two[step] == pytest.approx(one[step], rel=1e-5)
    assert adapter(alone).keys() == adapter(together).keys()
    for name, value in adapter(alone).items():
        np.testing.assert_allclose(adapter(together)[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_one_process_writes_and_speaks(runs):
    _, together, (first, second) = runs
    assert len(list(together.glob("events.out.tfevents.*"))) == 1
    assert "8 cpu device(s) of 2 process(es)" in first
    assert "training: step 0 of 8" in first
    assert "survey:" not in second and "train" not in second


def test_sigterm_at_one_process_stops_both_at_one_step(runs, tiny_checkpoint, tmp_path):
    alone, _, _ = runs
    stopped = tmp_path / "stopped"
    running = start(stopped, tiny_checkpoint, 2, max_steps=2000)
    metrics = stopped / "metrics.jsonl"
    while running[0].poll() is None and not (metrics.exists() and len(metrics_of(stopped)) > 1):
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    said = ended(running)
    assert statuses(running) == [42, 42], said
    steps = len(metrics_of(stopped))
    assert said[0].splitlines()[-1].startswith(f"stopped at step {steps}; ")
    assert (stopped / "checkpoints" / str(steps)).is_dir()

    # One process of eight devices takes it up where two left it, as if it had not been stopped.
    whole, last = shutil.copytree(alone, tmp_path / "whole"), max(steps, 8) + 2
    both = [start(run, tiny_checkpoint, 1, max_steps=last)[0] for run in (stopped, whole)]
    said = ended(both)
    assert statuses(both) == [0, 0], said
    assert f"training: step {steps} of {last}" in said[0]
    losses = [[row["loss"] for row in metrics_of(run)] for run in (stopped, whole)]
    assert len(losses[0]) == last
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_what_one_process_refuses_ends_all(runs, tiny_checkpoint):
    alone, _, _ = runs
    before = (alone / "experiment.json").read_text()
    both = start(alone, tiny_checkpoint, 2, seed=1)
    said = ended(both)
    assert statuses(both) == [1, 1]
    for line in said:
        assert line.splitlines()[-1].startswith(f"error: {alone} holds a run with another seed")
        assert "Traceback" not in line
    assert (alone / "experiment.json").read_text() == before
