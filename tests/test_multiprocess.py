"""Training in two processes of two devices each, as on two hosts; gloo carries the collectives."""

import shutil
import signal
import time

import jax
import numpy as np
import pytest
from faults.kill_training import Campaign, Kill, differing
from forked import Forked
from processes import SETTINGS, ended, start, statuses
from safetensors.numpy import load_file
from test_train import metrics_of, quick_commands, small_config

from ace_jax import train
from ace_jax.model.sharding import make_mesh

STEPS = 12
# Dropout's masks are drawn by row: one process has as many devices here as two have together.
WATCHED = {"lora.dropout": 0.1, "validation.select_best": True}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Commands run in this process have the devices that two processes have together."""
    with quick_commands(make_mesh(4, 1, 1, jax.devices()[:4])):
        yield


def config(checkpoint, max_steps=STEPS):
    return small_config(checkpoint, **SETTINGS | WATCHED | {"max_steps": max_steps})


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, tmp_path_factory):
    """The same run in one process and in two; what the two said."""
    alone, directory = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    two = start(directory / "whole", tiny_checkpoint, 2, max_steps=STEPS, **WATCHED)
    train.main(config(tiny_checkpoint), alone)
    said = ended(two)
    assert statuses(two) == [0, 0], said
    return alone, directory / "whole", said


def adapter(workdir):
    return load_file(workdir / "adapter" / "adapter_model.safetensors")


def test_two_processes_do_what_one_does(runs):
    alone, together, _ = runs
    rows = metrics_of(alone), metrics_of(together)
    assert len(rows[0]) == len(rows[1]) == STEPS
    for name in ("loss", "grad_norm", "lora_b_norm", "option_mass"):
        one, two = ([row[name] for row in table] for table in rows)
        np.testing.assert_allclose(two, one, rtol=1e-5, err_msg=name)
    due = [2, 3, 6, 9, 12]
    one, two = ({row["step"]: row.get("validation_loss") for row in table} for table in rows)
    assert [step for step in one if one[step]] == [step for step in two if two[step]] == due
    for step in due:
        assert two[step] == pytest.approx(one[step], rel=1e-5)
    assert adapter(alone).keys() == adapter(together).keys()
    for name, value in adapter(alone).items():
        np.testing.assert_allclose(adapter(together)[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_one_process_writes_and_speaks(runs):
    _, together, (first, second) = runs
    assert len(list(together.glob("events.out.tfevents.*"))) == 1
    assert "4 cpu device(s) of 2 process(es)" in first
    assert f"training: step 0 of {STEPS}" in first
    assert "survey:" not in second and "train" not in second


def test_a_run_that_is_killed_ends_as_one_that_is_not(runs, tiny_checkpoint):
    """tests/faults/kill_training.py has the long campaign."""
    _, together, _ = runs
    campaign = Campaign(
        together.parent, tiny_checkpoint, STEPS, devices=4, settings=WATCHED, begin=Forked
    )
    # SIGTERM: below.
    hits = list(campaign.kills("run", iter([Kill(signal.SIGKILL, (0, 1), 0, step=4)]), most=1))
    assert len(hits) == 1 and all(hit.fine for hit in hits), hits
    assert differing(together.parent / "run", together) == []


def test_sigterm_at_one_process_stops_both_at_one_step(runs, tiny_checkpoint, tmp_path, capfd):
    alone, _, _ = runs
    stopped = tmp_path / "stopped"
    running = start(stopped, tiny_checkpoint, 2, max_steps=2000, **WATCHED)
    metrics = stopped / "metrics.jsonl"
    while running[0].poll() is None and not (metrics.exists() and len(metrics_of(stopped)) > 1):
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    said = ended(running)
    assert statuses(running) == [42, 42], said
    steps = len(metrics_of(stopped))
    assert said[0].splitlines()[-1].startswith(f"stopped at step {steps}; ")
    assert (stopped / "checkpoints" / str(steps)).is_dir()

    # One process of four devices takes it up where two left it, as if it had not been stopped.
    whole, last = shutil.copytree(alone, tmp_path / "whole"), max(steps, STEPS) + 2
    capfd.readouterr()
    train.main(config(tiny_checkpoint, last), stopped)
    assert f"training: step {steps} of {last}" in capfd.readouterr().err
    train.main(config(tiny_checkpoint, last), whole)
    losses = [[row["loss"] for row in metrics_of(run)] for run in (stopped, whole)]
    assert len(losses[0]) == last
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_what_one_process_refuses_ends_all(runs, tiny_checkpoint):
    alone, _, _ = runs
    before = (alone / "experiment.json").read_text()
    both = start(alone, tiny_checkpoint, 2, seed=1, **WATCHED)
    said = ended(both)
    assert statuses(both) == [1, 1]
    for line in said:
        assert line.splitlines()[-1].startswith(f"error: {alone} holds a run with another seed")
        assert "Traceback" not in line
    assert (alone / "experiment.json").read_text() == before
