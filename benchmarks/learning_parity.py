"""Whether whole contexts teach as much as random pairs do, at equal data.

    python benchmarks/learning_parity.py --output learning_parity.json

Trains SmolLM2-135M on the spending questions of the embedded General Social Survey 2018, 18 of its
29, in the paper's schedule (an epoch of the anchor loss, one of the effect loss), with some of the
questions held out, several seeds each way:

    pair           batches of 8 random pairs, as the authors' code has them
    context        a whole context (a question with all its pairs) a batch, the same learning rate
    context x2     the same with twice the learning rate, as contexts make fewer steps

Runs lie in RUNS; what is complete there is not run again. Writes JSON, and a picture beside it of
the same name.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from workload import machine

from ace_jax.survey.dataset import read_dataset

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
LEARNING_RATE = 3e-4  # of configs/quickstart.py
SMOOTHED = 128  # pairs
REFERENCE = "pair"
HOLDOUT = "question:0.3@0"


@dataclass(frozen=True)
class Way:
    """One way to train: what a batch is, and the learning rate."""

    unit: str
    size: int
    learning_rate: float


WAYS = {
    REFERENCE: Way("pair", 8, LEARNING_RATE),
    "context": Way("context", 1, LEARNING_RATE),
    "context x2": Way("context", 1, 2 * LEARNING_RATE),
}


def main() -> None:
    """Runs the study; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--runs", type=Path, default=Path("runs/learning_parity"))
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()

    outs = {
        name: [trained(way, seed, options.runs) for seed in range(options.seeds)]
        for name, way in WAYS.items()
    }
    base = options.runs / "base"
    if not (base / "run.json").is_file():
        evaluate(base)
    report = options.runs / "report"
    named = [("base", base)] + [(name, run / "scored") for name in outs for run in outs[name]]
    command("report", *(f"--run={name}={out}" for name, out in named), f"--output={report}")
    logs = {name: [metrics(run) for run in runs] for name, runs in outs.items()}
    result = {
        "benchmark": "learning_parity",
        "machine": machine(),
        "seeds": options.seeds,
        "ways": {name: figures(name, report, logs[name]) for name in WAYS},
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    picture(logs, report, options.output.with_suffix(".png"))
    print(pd.DataFrame(result["ways"]).T.to_string())


def trained(way: Way, seed: int, runs: Path) -> Path:
    """Trains and scores one way with one seed, unless that is done; returns its directory."""
    run = runs / f"{way.unit}-{way.learning_rate:g}-{seed}"
    if not (run / "scored" / "run.json").is_file():
        command(
            "train",
            "--config=configs/methods.py:paper@2",
            f"--workdir={run / 'train'}",
            f"--config.batch.unit={way.unit}",
            f"--config.batch.size={way.size}",
            f"--config.optimizer.learning_rate={way.learning_rate}",
            f"--config.seed={seed}",
            *data(),
        )
        evaluate(run / "scored", f"--config.adapter.path={run / 'train' / 'adapter'}")
    return run


def evaluate(out: Path, *fields: str) -> None:
    """Scores the model on the held-out questions."""
    experiment = "--config=configs/evaluate.py:methods:paper"
    command("evaluate", experiment, f"--workdir={out}", *data(), *fields)


def data() -> list[str]:
    """Returns the fields that name the questions, and those that training must not see."""
    known = read_dataset("gss2018").questions["question_id"]
    asked = tuple(known[known.str.startswith("nat")])
    return [f"--config.data.questions={asked}", f"--config.data.holdout={HOLDOUT}"]


def command(name: str, *fields: str) -> None:
    """Runs a command of the package; stops where it fails."""
    subprocess.run([sys.executable, "-m", f"ace_jax.{name}", *fields], cwd=ROOT, check=True)


def metrics(run: Path) -> pd.DataFrame:
    """Returns a run's steps, with the pairs that each had and those seen up to it."""
    rows = pd.read_json(run / "train" / "metrics.jsonl", lines=True)
    pairs = (rows["pairs_per_second"] * rows["seconds"]).round()
    return rows.assign(pairs=pairs, seen=pairs.cumsum())


def figures(name: str, report: Path, logs: list[pd.DataFrame]) -> dict[str, float]:
    """Returns what a way comes to on the held-out questions, and what it took."""
    gains, distances = (pd.read_csv(report / f"{table}.csv") for table in FROM)
    gains = gains[(gains["run"] == name) & (gains["country"] == "ALL")]
    distances = distances[(distances["run"] == name) & (distances["country"] == "ALL")]
    scores = {f"score_g{row.granularity}": row.score for row in gains.itertuples()}
    finest = gains.iloc[-1]
    return {
        "learning_rate": WAYS[name].learning_rate,
        "updates": float(np.mean([len(log) for log in logs])),
        **scores,
        "seed_sd_finest": finest["seed_sd"],
        "ci_low_finest": finest["ci_low"],
        "ci_high_finest": finest["ci_high"],
        "effect_distance": distances.set_index("attribute")["distance"]["ALL"],
        "training_seconds": float(np.mean([log["seconds"].sum() for log in logs])),
    }


FROM = ("gains", "effect_distances")


def picture(logs: dict[str, list[pd.DataFrame]], report: Path, path: Path) -> None:
    """Draws both losses over pairs seen, each in its own epoch, and the held-out scores."""
    gains = pd.read_csv(report / "gains.csv").query("country == 'ALL'")
    figure, axes = plt.subplots(ncols=3, figsize=(10, 3.5), layout="constrained")
    for number, (name, runs) in enumerate(logs.items()):
        look = {"color": f"C{number}", "label": name}
        for axis, stage, loss in ((0, 1, "anchor_loss"), (1, 2, "effect_loss")):
            for seed, run in enumerate(runs):
                rows = run[run["stage"] == stage]
                axes[axis].plot(
                    rows["seen"] - rows["seen"].iloc[0] + rows["pairs"].iloc[0],
                    smoothed(rows[loss], rows["pairs"]),
                    linewidth=1,
                    **(look if seed == 0 else {"color": look["color"]}),
                )
        rows = gains[gains["run"] == name]
        error = np.abs(rows[["ci_low", "ci_high"]].to_numpy().T - rows["score"].to_numpy())
        axes[2].errorbar(
            rows["granularity"] + 0.08 * (number - 1), rows["score"], error, fmt="o", capsize=2,
            **look,
        )  # fmt: skip
    for axis, title in ((0, "anchor loss, first epoch"), (1, "effect loss, second epoch")):
        axes[axis].set(title=title, xlabel="pairs seen in the epoch")
    axes[2].set(title="held-out score, 95 %", xlabel="attributes named", xticks=range(1, 5))
    handles, names = axes[2].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=110)


def smoothed(loss: pd.Series, pairs: pd.Series) -> pd.Series:
    """Returns the running mean over about as many pairs for batches of any size."""
    return loss.rolling(max(1, round(SMOOTHED / pairs.iloc[0])), min_periods=1).mean()


if __name__ == "__main__":
    main()
