"""How long `report` takes, in how much memory, and how heavy its page is, on made-up runs.

    python benchmarks/report_size.py [--countries 14] [--questions 240] [--keep DIR]

Five methods and seven references on countries x questions x 80 personas, of 2 to 11 options, with
topics and texts. The report is made in a process of its own. If there is a Chromium, it
opens the page ten times and the median counts. Prints JSON: seconds, peak memory, bytes, and
milliseconds until the page is drawn and can be used.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from workload import machine

from ace_jax.evaluation.references import REFERENCES
from ace_jax.survey.personas import ATTRIBUTES, personas

COUNTRIES = (
    *("AUS", "CHL", "DEU", "EGY", "ETH", "GBR", "IND"),
    *("JPN", "MEX", "NGA", "NZL", "PHL", "RUS", "USA"),
)
TOPICS = (
    *("Work orientations", "Health", "Citizenship", "Role of government", "National identity"),
    *("Social networks", "Religion", "Family", "Environment", "Social inequality"),
)
# How much of the survey's country, persona and noise a method has, and how far off it is.
METHODS = {
    "Base": (0.35, 0.2, 0.55),
    "AdPrompt": (0.4, 0.25, 0.52),
    "Anchor-only": (0.5, 0.3, 0.6),
    "Causal-only": (0.6, 0.75, 0.4),
    "ACE-Align": (0.8, 0.85, 0.25),
}
# Behind the page's own script: everything has been drawn; asking for a height lays it out.
DRAWN = """<script>document.body.offsetHeight;
document.documentElement.dataset.milliseconds = Math.round(performance.now());</script>"""


def write_runs(directory: Path, countries: int, questions: int) -> list[str]:
    """Writes made-up OUT directories and returns what to give to `--run`."""
    random = np.random.default_rng(0)
    levels = {attribute.name: attribute.levels for attribute in ATTRIBUTES}
    people = pd.DataFrame([p for g in (1, 2, 3, 4) for p in personas(ATTRIBUTES, g)])
    named = np.stack([_side(people[name], of) for name, of in levels.items()], axis=1)
    size = (countries, questions, len(people))
    options = random.choice([2, 3, 4, 4, 5, 5, 5, 7, 10, 11], questions)
    country, question, persona = (axis.reshape(-1) for axis in np.indices(size))
    names = [f"Q{number + 1}" for number in range(questions)]
    cells = pd.DataFrame(
        {
            "source": "made up",
            "country": np.array(COUNTRIES[:countries])[country],
            "question_id": np.array(names)[question],
            "granularity": (named != 0).sum(axis=1)[persona],
            **{name: people[name].to_numpy()[persona] for name in levels},
            "n": np.maximum(11, 1400 // 2 ** (named != 0).sum(axis=1))[persona]
            + random.integers(0, 40, country.size),
        }
    ).assign(effective_n=lambda of: of["n"].astype(float))
    effects = random.normal(0, 0.22, (countries, questions, named.shape[1]))
    centre = random.normal(0, 0.5, (countries, questions, 1))
    moved = np.einsum("cqa,pa->cqp", effects, named)
    spread = random.uniform(0.7, 1.2, (countries, questions, 1))
    survey = _answers(centre + moved, spread, options)
    p_data = [
        draw / draw.sum() for draw in map(random.multinomial, np.minimum(cells["n"], 10**6), survey)
    ]
    table = pd.DataFrame(
        {
            "source": "made up",
            "question_id": names,
            "topic": [TOPICS[number % len(TOPICS)] for number in range(questions)],
            "text": [
                f"How much do you agree with statement {name} of <b>this</b> survey & others?"
                for name in names
            ],
            "option_codes": [list(range(1, size + 1)) for size in options],
            "option_labels": [_labels(size) for size in options],
            "ordinal": True,
        }
    )
    runs = []
    for name, (near, moves, off) in METHODS.items():
        wrong = random.normal(0, off, centre.shape)
        others = random.normal(0, 0.15, effects.shape) * (1 - moves)
        moved_too = np.einsum("cqa,pa->cqp", moves * effects + others, named)
        p = _answers(near * centre + wrong + moved_too, 0.9 * spread, options)
        runs.append(_write(directory / name, name, cells, p_data, p, table, levels))
    # Seven references, as `evaluate` writes them; their answers do not matter here.
    uniform = [np.full(k, 1 / k) for k in options[question]]
    middle = _answers(centre + 0 * moved, spread, options)
    beside = [
        pd.DataFrame({"reference": name, "cell": range(len(cells)), "p": p})
        for name, p in zip(REFERENCES, cycle((uniform, middle)), strict=False)
    ]
    first = directory / next(iter(METHODS))
    pd.concat(beside).to_parquet(first / "references.parquet", index=False)
    return runs


def _side(column: pd.Series, levels: tuple[str, ...]) -> np.ndarray:
    return np.where(column.isna(), 0, np.where(column == levels[1], 1, -1))


def _answers(centre: np.ndarray, spread: np.ndarray, options: np.ndarray) -> list[np.ndarray]:
    """Distributions of a normal opinion cut into K, in the order country, question, persona."""
    centre, spread = np.broadcast_arrays(centre, spread)
    by_question = []
    for question, k in enumerate(options):
        cuts = norm.ppf(np.arange(1, k) / k)
        below = norm.cdf((cuts - centre[:, question, :, None]) / spread[:, question, :, None])
        by_question.append(np.diff(below, axis=-1, prepend=0, append=1))
    countries, people = centre.shape[0], centre.shape[2]
    return [
        by_question[question][country, persona]
        for country in range(countries)
        for question in range(len(options))
        for persona in range(people)
    ]


def _labels(size: int) -> list[str]:
    if size == 2:
        return ["Yes", "No"]
    if size > 7:
        middle = [str(number) for number in range(2, size)]
        return ["1, Never justifiable", *middle, f"{size}, Always justifiable"]
    words = [
        "Strongly disagree",
        "Disagree",
        "Rather disagree",
        "Neither agree nor disagree",
        "Rather agree",
        "Agree",
        "Strongly agree",
    ]
    chosen = {3: (1, 3, 5), 4: (0, 1, 5, 6), 5: (0, 1, 3, 5, 6), 7: range(7)}[size]
    return [words[place] for place in chosen]


def _write(
    out: Path, name: str, cells: pd.DataFrame, p_data: list, p_model: list, questions: pd.DataFrame,
    levels: dict,
) -> str:  # fmt: skip
    out.mkdir()
    distance = [
        np.abs(np.cumsum(p - q))[:-1].sum() / (len(p) - 1)
        for p, q in zip(p_data, p_model, strict=True)
    ]
    predictions = cells.assign(
        p_data=p_data, p_model=p_model, option_mass=1.0, distance=distance
    ).assign(score=lambda of: 1 - of["distance"])
    predictions.to_parquet(out / "predictions.parquet", index=False)
    questions.to_parquet(out / "questions.parquet", index=False)
    adapter = {"path": f"runs/{name}/adapter", "sha256": "0" * 64}
    run = {
        "version": "0.1.0",
        "seed": 0,
        "model": {"name": "made up", "dtype": "float32"},
        "adapter": None if name in ("Base", "AdPrompt") else adapter,
        "data": {"path": "made up", "split": "held_out", "holdout": "question:0.3", "min_n": 10},
        "attributes": levels,
        "prompt": {"template": "persona_first"},
    }
    (out / "run.json").write_text(json.dumps(run))
    return f"--run={name}={out}"


def open_page(index: Path) -> float | None:
    """Returns the milliseconds until Chromium has drawn the page; None without a Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        return None
    timed = index.with_name("timed.html")
    text = index.read_text(encoding="utf-8")
    before, body_end, after = text.rpartition("</body>")
    timed.write_text(before + DRAWN + body_end + after, encoding="utf-8")
    found = []
    for _ in range(10):
        with tempfile.TemporaryDirectory() as profile:
            dom = subprocess.run(
                [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                 "--no-first-run", "--disable-background-networking", "--disable-component-update",
                 "--disable-sync", f"--user-data-dir={profile}", "--timeout=20000", "--dump-dom",
                 timed.resolve().as_uri()],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        milliseconds = re.search(r'data-milliseconds="(\d+)"', dom)
        if milliseconds is None:
            sys.exit("the page was not drawn")
        found.append(float(milliseconds[1]))
    timed.unlink()
    return statistics.median(found)


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--countries", type=int, default=14)
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--keep", type=Path, help="directory for the runs and the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        runs = write_runs(directory, options.countries, options.questions)
        report = directory / "report"
        start = time.perf_counter()
        command = [sys.executable, "-m", "ace_jax.report", *runs, f"--output={report}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit("the report failed")
        index = report / "index.html"
        print(
            json.dumps(
                {
                    "benchmark": "report_size",
                    "machine": machine(),
                    "cells": options.countries * options.questions * 80,
                    "runs": len(runs),
                    "seconds": round(seconds, 1),
                    "peak_bytes": usage.ru_maxrss * 1024,  # Linux: KiB
                    "page_bytes": index.stat().st_size,
                    "page_milliseconds": open_page(index),
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
