"""What checkpoints cost in the quickstart: time of its steps, and of starting from one.

    python benchmarks/checkpoint_cost.py

Trains the quickstart's model on its survey with a checkpoint every third step, in the survey's own
order so that an epoch is like the next. What the step after a save takes longer than others of as
many tokens is the save's cost: what it keeps the loop waiting, and what writing in the background
takes from the step. From that follows its share with a save every 50 steps, as shipped. Then fresh
and resumed runs take turns, each until its first step is on record; both have the same first batch
and find their steps compiled.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory

import numpy as np
from workload import CONFIGS, machine

from ace_jax.training.data import training_data

QUICKSTART = CONFIGS / "quickstart.py"
OUTPUT = Path(__file__).parent / "results" / "checkpoint_cost.json"
EVERY = 3  # steps between two saves
EPOCHS = 3  # the first one compiles and is not counted


def main() -> None:
    """Runs the measurement; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repetitions", type=int, default=3)
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    options = arguments.parse_args()
    config = run_path(str(QUICKSTART))["get_config"]()
    epoch = training_data(config).train.pairs["context"].nunique() // config.batch.size
    shipped, done = config.checkpoint.every_steps, EPOCHS * epoch

    with TemporaryDirectory() as directory:
        trained, cache = Path(directory) / "trained", Path(directory) / "compiled"
        started(trained, cache, EVERY, done).wait()
        rows = rows_of(trained)[epoch:]
        seconds = np.array([row["seconds"] for row in rows])
        after_save = np.array([(row["step"] - 1) % EVERY == 0 for row in rows])
        extra = extra_seconds(rows, seconds, after_save)
        starts: dict[str, list[float]] = {"fresh": [], "resumed": []}
        for turn in range(options.repetitions):
            fresh = Path(directory) / f"fresh{turn}"
            starts["fresh"].append(seconds_to_step(fresh, cache, 1))
            resumed = shutil.copytree(trained, Path(directory) / f"resumed{turn}")
            starts["resumed"].append(seconds_to_step(resumed, cache, done + 1))

    step = float(np.median(seconds[~after_save]))
    medians = {name: float(np.median(laps)) for name, laps in starts.items()}
    result = {
        "benchmark": "checkpoint_cost",
        "machine": machine(),
        "seconds_a_step": step,
        "seconds_a_save": extra.tolist(),
        "every_steps": shipped,
        "share": float(np.median(extra)) / (shipped * step),
        "share_by_mean": float(np.mean(extra)) / (shipped * step),
        "seconds_to_first_step": starts,
        "resumed_later_by": medians["resumed"] - medians["fresh"],
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def extra_seconds(
    rows: list[dict[str, float]], seconds: np.ndarray, after_save: np.ndarray
) -> np.ndarray:
    """Returns what each step after a save takes longer than others of as many tokens."""
    tokens = np.array([row["tokens_per_second"] * row["seconds"] for row in rows])
    rate = np.median((seconds / tokens)[~after_save])
    return (seconds - tokens * rate)[after_save]


def started(workdir: Path, cache: Path, every_steps: int, max_steps: int) -> subprocess.Popen:
    """Starts training as the quickstart does, on prepared compilations."""
    settings = {
        "data.shuffle": False,
        "objective.stages": ((1.0, 0.0, EPOCHS + 1),),
        "checkpoint.every_steps": every_steps,
        "max_steps": max_steps,
    }
    fields = [f"--config.{name}={value}" for name, value in settings.items()]
    train = [sys.executable, "-m", "ace_jax.train", f"--config={QUICKSTART}"]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen([*train, f"--workdir={workdir}", *fields], env=os.environ | environment)


def seconds_to_step(workdir: Path, cache: Path, step: int) -> float:
    """Starts a run, and kills it when the row of a step is there; returns after how long."""
    began = time.perf_counter()
    running = started(workdir, cache, 10**6, step + 5)
    while running.poll() is None and len(rows_of(workdir)) < step:
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    running.kill()
    running.wait()
    return seconds


def rows_of(workdir: Path) -> list[dict[str, float]]:
    """Returns the whole rows of metrics.jsonl so far."""
    path = workdir / "metrics.jsonl"
    *lines, _ = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
