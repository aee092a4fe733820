"""Kills training, evaluation and report at random moments, and starts them again until all is done.

    python -m tests.faults.kill_life --kills 100 --seed 0

A tiny random model is trained over two stages, its adapter evaluated, and a report made of that:
three commands, one after the other, each a process of its own. Each start is killed (SIGKILL, or
SIGTERM for one in four) at a moment that the seed draws: anywhere in the command, or, in training,
from the last step of the first stage on, or from the last step on, when the adapter is exported. A
command is started again until it ends by itself, and is left alone after five kills; then the next
begins. What a life leaves (adapter,
metrics, answers, scores, the report's tables) must be that of a life without a kill, to the bit.
Prints a line a kill and a table; ends with status 1 if something was not as it should be.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own helpers

import pandas as pd
from faults.seed_files import save_model
from forked import Forked
from processes import fields
from test_checkpoints import outcome
from test_train import ROOT, SMALL, command

BORDER, STEPS = 6, 9  # the last steps of the first stage and of the run, as SMALL has them
SETTINGS = SMALL | {"data.holdout": "question:abany", "checkpoint.every_steps": 3}
MOMENTS = {"train": (0, BORDER, STEPS), "evaluate": (0,), "report": (0,)}
MOST = 5  # kills of a command in a life, which is then left alone
SOON = 0.5  # seconds: from a step that is of interest to what is
LIMIT = 600.0  # seconds for a command, on however busy a machine


def commands(life: Path, model: Path) -> dict[str, list[str]]:
    """Returns the command lines of a life, in their order."""
    run, scored = life / "run", life / "scored"
    python = [sys.executable, "-m"]
    evaluate = [*python, "ace_jax.evaluate", f"--adapter={run / 'adapter'}", f"--workdir={scored}"]
    evaluate += fields({"batch.size": 8, "batch.row_lengths": (1024,), "data.min_n": 136})
    report = [*python, "ace_jax.report", "--run", f"tuned={scored}"]
    return {
        "train": command("train", "quickstart.py", run, *fields({**SETTINGS, "model.path": model})),
        "evaluate": evaluate,
        "report": [*report, "--output", str(life / "report")],
    }


def left(life: Path) -> dict[str, object]:
    """Returns what a life leaves, by name, the clock's part of it taken out."""
    adapter, metrics = outcome(life / "run")
    answers = pd.read_parquet(life / "scored" / "predictions.parquet")
    tables = [*sorted((life / "scored").glob("*.csv")), *sorted((life / "report").glob("*.csv"))]
    texts = {f"{table.parent.name}/{table.name}": table.read_text() for table in tables}
    return {"adapter": adapter, "metrics": metrics, "answers": answers.to_json()} | texts


def litter(life: Path) -> list[str]:
    """Returns what lies there that no command should leave."""
    return [str(path.relative_to(life)) for path in life.rglob(".*")]


def finished(line: list[str]) -> float:
    """Runs a command to its end; returns the seconds that it took."""
    began = time.monotonic()
    process = Forked(line, 1, ROOT)
    said = process.communicate(LIMIT)[1]
    assert process.returncode == 0, said
    return time.monotonic() - began


def killed(line: list[str], life: Path, draw: Random, step: int, seconds: float) -> str | None:
    """Starts a command and kills it; returns what happened, or None where it was done before."""
    signal = SIGTERM if draw.random() < 0.25 else SIGKILL
    wait = draw.random() * seconds
    metrics = life / "run" / "metrics.jsonl"

    def reached() -> bool:
        return metrics.exists() and metrics.read_bytes().count(b"\n") >= step

    if step and reached():  # it was there before
        step = 0
    process, until = Forked(line, 1, ROOT), time.monotonic() + LIMIT

    def waiting() -> bool:
        return process.poll() is None and time.monotonic() < until

    while step and waiting() and not reached():
        time.sleep(0.002)
    if step:
        wait = SOON * draw.random()
    struck = time.monotonic() + wait
    while waiting() and time.monotonic() < struck:
        time.sleep(0.002)
    process.send_signal(signal)
    said = process.communicate(LIMIT)[1]
    if process.returncode == 0:
        return None
    fine = process.returncode in (-signal, 42) or (signal is SIGTERM and process.returncode == 1)
    if not fine or "Traceback" in said:
        return f"{signal.name}: WRONG, status {process.returncode}: {said[-2000:]}"
    return f"{signal.name} after {wait:.2f} s from step {step}"


def campaign(kills: int, seed: int, directory: Path) -> Iterator[tuple[str, str]]:
    """Yields what was killed and what happened; the outcome of each life as `life`."""
    model = save_model(directory / "model")
    seconds: dict[str, float] = {}
    for name in ("cold", "whole"):  # the second compiles little
        for of, line in commands(directory / name, model).items():
            seconds[of] = finished(line)
    expected, number = left(directory / "whole"), 0
    for life in (directory / f"life{place}" for place in count()):
        for of, line in commands(life, model).items():
            for _ in range(MOST):
                if number == kills:
                    finished(line)
                    break
                draw, began = Random(f"{seed} {life.name} {number}"), time.monotonic()
                happened = killed(line, life, draw, draw.choice(MOMENTS[of]), seconds[of])
                if happened is None:  # done before: the machine has become faster
                    seconds[of] = min(seconds[of], time.monotonic() - began)
                    break
                number += 1
                yield of, happened
            else:
                finished(line)
        found = left(life)
        wrong = [name for name in expected.keys() | found if expected.get(name) != found.get(name)]
        yield "life", f"WRONG: other {', '.join(wrong)}" if wrong else "alike"
        if rest := litter(life):
            yield "life", f"WRONG: litter {', '.join(rest)}"
        shutil.rmtree(life)
        if number >= kills:
            return


def main() -> None:
    """Runs the campaign; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kill_life",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    directory, began = Path(tempfile.mkdtemp(prefix="lives.")), time.monotonic()
    counts: Counter[tuple[str, str]] = Counter()
    for of, happened in campaign(args.kills, args.seed, directory):
        print(f"{of}: {happened}", flush=True)
        counts[of, "WRONG" if "WRONG" in happened else happened.split()[0]] += 1
    for (of, what), times in sorted(counts.items()):
        print(f"{of:10} {what:10} {times:4}")
    print(f"{time.monotonic() - began:.0f} s")
    shutil.rmtree(directory)
    sys.exit(any(what == "WRONG" for _, what in counts))


if __name__ == "__main__":
    main()
