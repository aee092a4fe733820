"""Runs of several processes, as on as many hosts; gloo carries the collectives."""

import os
import socket
import subprocess

from forked import Forked
from test_train import ROOT, SMALL, command

SETTINGS = SMALL | {
    "data.questions": ("natspac", "natenvir", "abany"),
    "data.min_n": 140,
    "data.holdout": "question:0.34",  # 7 pairs are left, 2 steps an epoch
    "lora.dropout": 0.0,  # its masks are drawn by row, and other meshes have other rows
    "batch.row_lengths": (256,),
    "objective.stages": ((1.0, 0.0, 1), (0.0, 1.0, 500)),  # more than are done before a signal
    "max_steps": 8,
    "validation.every_steps": 3,
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(workdir, checkpoint, processes, devices=4, begin=Forked, **changes):
    """Starts `train` with so many devices in all; returns its processes."""
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    settings = SETTINGS | {"model.path": checkpoint} | changed
    line = command("train", "quickstart.py", workdir, *fields(settings))
    return launch(line, processes, devices, begin)


def fields(settings):
    return [f"--config.{name}={value}" for name, value in settings.items()]


def launch(line, processes, devices=4, begin=Forked):
    """Starts a command line in so many processes, with so many devices in all."""
    joined, numbers = [], [[]]
    if processes > 1:
        joined = fields(
            {
                "distributed.initialize": True,
                "distributed.coordinator": f"localhost:{free_port()}",
                "distributed.num_processes": processes,
            }
        )
        numbers = [fields({"distributed.process_id": number}) for number in range(processes)]
    each = devices // processes
    return [begin([*line, *joined, *number], each, ROOT) for number in numbers]


def python(line, devices, cwd):
    """Starts a command line as a user does."""
    return subprocess.Popen(
        line,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        cwd=cwd,
        stdout=subprocess.DEVNULL,  # gloo tells there who has joined
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes):
    """Returns what each process said, when all have ended; none is left behind."""
    try:
        return [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def statuses(processes):
    return [process.returncode for process in processes]
