"""Training in two processes of four devices each, as on two hosts; gloo carries the collectives."""

import os
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_train import ROOT, SMALL, command, metrics_of

SETTINGS = SMALL | {
    "lora.dropout": 0.0,  # its masks are drawn by row, and other meshes have other rows
    "batch.row_lengths": (256,),
    "objective.stages": ((1.0, 0.0, 1), (0.0, 1.0, 500)),  # more than are done before a signal
    "max_steps": 8,
}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles sooner, runs later
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(workdir, checkpoint, processes, cache, **changes):
    """Starts `train` with eight devices in all; returns its processes."""
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    settings = SETTINGS | {"model.path": checkpoint} | changed
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    if processes > 1:
        arguments += [
            "--config.distributed.initialize=True",
            f"--config.distributed.coordinator=localhost:{free_port()}",
            f"--config.distributed.num_processes={processes}",
        ]
    of_all = {
        "JAX_NUM_CPU_DEVICES": str(8 // processes),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return [
        subprocess.Popen(
            command("train", "quickstart.py", workdir, *arguments)
            + ([f"--config.distributed.process_id={number}"] if processes > 1 else []),
            env=os.environ | ENVIRONMENT | of_all,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def ended(processes):
    """Returns what each process said, when all have ended; none is left behind."""
    try:
        return [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def statuses(processes):
    return [process.returncode for process in processes]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, tmp_path_factory, cache):
    """The same run in one process and in two; what the two said."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    one, two = (start(alone, tiny_checkpoint, 1, cache), start(together, tiny_checkpoint, 2, cache))
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
    assert adapter(alone).keys() == adapter(together).keys()
    for name, value in adapter(alone).items():
        np.testing.assert_allclose(adapter(together)[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_one_process_writes_and_speaks(runs):
    _, together, (first, second) = runs
    assert len(list(together.glob("events.out.tfevents.*"))) == 1
    assert "8 cpu device(s) of 2 process(es)" in first
    assert "training: step 0 of 8" in first
    assert "survey:" not in second and "train" not in second


def test_sigterm_at_one_process_stops_both_at_one_step(runs, tiny_checkpoint, tmp_path, cache):
    alone, _, _ = runs
    stopped = tmp_path / "stopped"
    running = start(stopped, tiny_checkpoint, 2, cache, max_steps=2000)
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
    both = [start(run, tiny_checkpoint, 1, cache, max_steps=last)[0] for run in (stopped, whole)]
    said = ended(both)
    assert statuses(both) == [0, 0], said
    assert f"training: step {steps} of {last}" in said[0]
    losses = [[row["loss"] for row in metrics_of(run)] for run in (stopped, whole)]
    assert len(losses[0]) == last
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_what_one_process_refuses_ends_all(runs, tiny_checkpoint, cache):
    alone, _, _ = runs
    before = (alone / "config.json").read_text()
    both = start(alone, tiny_checkpoint, 2, cache, seed=1)
    said = ended(both)
    assert statuses(both) == [1, 1]
    for line in said:
        assert line.splitlines()[-1].startswith(f"error: {alone} holds a run with other settings")
        assert "Traceback" not in line
    assert (alone / "config.json").read_text() == before
