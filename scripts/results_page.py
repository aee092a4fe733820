"""Makes docs/results.md of what launch/results.sh wrote.

    python scripts/results_page.py [runs/results] [--docs docs]

Reads the reports in OUTPUT/questions and OUTPUT/personas, those that there are, and the run.json of
every run in them. Writes DOCS/results.md and its figures, DOCS/figures/results_*.png. What people
have to say of the numbers is DOCS/results_words.md: it is put on the page and never written.
"""

import argparse
import json
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax import command
from ace_jax.errors import InputError
from ace_jax.report.findings import ALL, EPSILON
from ace_jax.report.tables import escape_markdown

HEADINGS = {
    "questions": "Questions that training has not seen",
    "personas": "Personas that training has not seen",
}
FIGURES = {"questions": ("granularity", "classes"), "personas": ("scores",)}
CAPTIONS = {
    "granularity": "Score by persona granularity, 95 % intervals over questions",
    "classes": f"Classes of effects at a threshold of {EPSILON:g} point",
    "scores": "Scores, 95 % intervals over questions",
}
TEXT = """\
# Results

<!-- Made by scripts/results_page.py. Do not edit: write into results_words.md, then run it. -->

Every method of `configs/methods.py` on the embedded General Social Survey 2018, beside references
that ask no model: `uniform`, `mean` (of the training questions with as many options) and
`no_effect` (what all respondents together answered to the very question). Scores are 0-100; "of
ceiling" is against what a perfect model would score, given so few respondents a cell; intervals are
95 %, over questions and seeds; p is of flips of questions' signs. A method of several seeds is the
mean of them, "SD" how far they are apart. [analysis.md](analysis.md) says what each number means.
"""


@dataclass(frozen=True)
class Unseen:
    """What launch/results.sh made of one hold-out.

    `runs`: the run.json of every run of the report, by name. `outs`: where they lie.
    `log`: date and command of each step. `called`: the launch that made the report.
    """

    name: str
    report: Path
    outs: Mapping[str, Sequence[Path]]
    runs: Mapping[str, Sequence[Mapping[str, Any]]]
    log: Sequence[tuple[str, Sequence[str]]]
    called: str

    @property
    def methods(self) -> list[str]:
        """Names of those that asked a model, in order."""
        return [name for name, runs in self.runs.items() if not runs[0].get("reference")]

    @property
    def references(self) -> list[str]:
        """Names of those that did not."""
        return [name for name in self.runs if name not in self.methods]

    def table(self, name: str, country: str = ALL) -> pd.DataFrame:
        """Returns the rows of a table of the report that are over all countries."""
        table = pd.read_csv(self.report / f"{name}.csv")
        return table[table["country"] == country]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the whole job; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", nargs="?", type=Path, default=Path("runs/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(argv)
    there = [read(options.output, name) for name in HEADINGS if (options.output / name).is_dir()]
    if not there:
        raise InputError(f"{options.output}: has no results; run launch/results.sh first")
    words = options.docs / "results_words.md"
    said = [words.read_text(encoding="utf-8")] if words.is_file() else []
    figures = options.docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    page = options.docs / "results.md"
    parts = [TEXT, *said, *(section(one, figures) for one in there)]
    page.write_text("\n".join(parts), encoding="utf-8")
    command.say(f"{page} and {figures}/results_*.png")


def read(output: Path, name: str) -> Unseen:
    """Reads OUTPUT/NAME. Raises InputError where it is not finished."""
    here = output / name
    try:
        lines = (output / "commands.tsv").read_text(encoding="utf-8").splitlines()
        called = (here / "report" / "command.txt").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"{error.filename} is missing; run launch/results.sh again") from None
    log = [(date, shlex.split(line)) for date, line in (line.split("\t", 1) for line in lines)]
    *_, last = (step for step in log if step[1][-1] == str(here / "report"))
    outs: dict[str, list[Path]] = {}
    for flag, value in pairwise(last[1]):
        if flag == "--run":
            method, _, out = value.partition("=")
            outs.setdefault(method, []).append(Path(out))
    runs = {
        method: [json.loads((out / "run.json").read_text(encoding="utf-8")) for out in of]
        for method, of in outs.items()
    }
    used = {str(out) for of in outs.values() for out in of}
    used |= {str(out.parent / "train") for of in outs.values() for out in of}
    own = [
        step for step in log if used & set(step[1]) or "ace_jax.prepare" in step[1] or step is last
    ]
    return Unseen(name, here / "report", outs, runs, own, called)


def section(unseen: Unseen, figures: Path) -> str:
    """Returns a hold-out's part of the page; copies its figures."""
    made = _made(unseen)
    parts = [f"## {HEADINGS[unseen.name]}", _identity(unseen)]
    gains, scores = unseen.table("gains"), unseen.table("scores")
    for granularity in sorted(gains["granularity"].unique()):
        of = (table[table["granularity"] == granularity] for table in (gains, scores))
        parts += [_scores(unseen, int(granularity), *of), made]
    if (unseen.report / "differences.csv").is_file():
        parts += [_differences(unseen), made]
    if (unseen.report / "effect_distances.csv").is_file():
        parts += [_effects(unseen), made, _classes(unseen), made]
    if (unseen.report / "audit.csv").is_file():
        parts += [_audit(unseen), made]
    for name in FIGURES[unseen.name]:
        copy = figures / f"results_{unseen.name}_{name}.png"
        shutil.copyfile(unseen.report / "figures" / f"{name}.png", copy)
        parts.append(f"![{CAPTIONS[name]}]({figures.name}/{copy.name})")
    steps = "\n".join(f"{shlex.join(argv)}  # {date}" for date, argv in unseen.log)
    parts.append(
        f"<details><summary>All {len(unseen.log)} commands that it ran</summary>\n\n"
        f"```sh\n{steps}\n```\n\n</details>"
    )
    return "\n\n".join(parts) + "\n"


def _made(unseen: Unseen) -> str:
    dates = sorted({date for date, _ in unseen.log})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"    {unseen.called}    # {when}"


def _identity(unseen: Unseen) -> str:
    """What was asked, of whom, and how long each method was trained."""
    every = [run for runs in unseen.runs.values() for run in runs]
    models = _distinct(
        f"{run['model']['name']} in {run['model']['dtype']} (SHA-256 {run['model']['sha256'][:12]})"
        for run in every
        if run["model"]
    )
    data = _distinct(
        f"{run['data']['path']} (SHA-256 {run['data']['sha256'][:12]})" for run in every
    )
    first = every[0]["data"]
    rows = [
        (
            name,
            _distinct(run["prompt"]["template"] for run in unseen.runs[name]),
            _distinct(str(run["seed"]) for run in unseen.runs[name])
            if _trained(unseen, name)
            else "",
            _distinct(_stages(out) for out in unseen.outs[name]),
            _distinct(_steps(out) for out in unseen.outs[name]),
        )
        for name in unseen.methods
    ]
    header = ("method", "template", "seeds", "stages (alpha, beta, epochs)", "steps trained")
    return (
        f"Model: {models}. Data: {data}. Hold-out: `{first['holdout']}`; cells of at least "
        f"{first['min_n']} respondents. ace_jax {every[0]['version']}.\n\n" + _table(header, rows)
    )


def _trained(unseen: Unseen, name: str) -> bool:
    return bool(unseen.runs[name][0]["adapter"])


def _stages(out: Path) -> str:
    config = out.parent / "train" / "config.json"
    if not config.is_file():
        return "none"
    stages = json.loads(config.read_text(encoding="utf-8"))["objective"]["stages"]
    return ", ".join(f"({alpha:g}, {beta:g}, {epochs})" for alpha, beta, epochs in stages)


def _steps(out: Path) -> str:
    metrics = out.parent / "train" / "metrics.jsonl"
    if not metrics.is_file():
        return "0"
    last = metrics.read_text(encoding="utf-8").strip().splitlines()[-1]
    return f"{json.loads(last)['step']:,}"


def _scores(unseen: Unseen, granularity: int, gains: pd.DataFrame, scores: pd.DataFrame) -> str:
    gain_of = {row["run"]: row for row in gains.to_dict("records")}
    score_of = {row["run"]: row for row in scores.to_dict("records")}
    first, best = unseen.methods[0], max(unseen.methods, key=lambda name: score_of[name]["score"])
    rows = []
    for name in (*unseen.methods, *unseen.references):
        score, gain = score_of[name], gain_of[name]
        text = f"{score['score']:.1f} [{score['ci_low']:.1f}, {score['ci_high']:.1f}]"
        gained = f"{gain['gain']:+.1f} [{gain['gain_low']:+.1f}, {gain['gain_high']:+.1f}]"
        several = gain["n_seeds"] > 1
        rows.append(
            (
                name if name in unseen.methods else f"({name})",
                f"**{text}**" if name == best else text,
                f"{score['percent_of_ceiling']:.1f} %",
                "" if name == first else gained,
                "" if name == first else _p(gain["p_value"]),
                f"{gain['seed_sd']:.2f} ({gain['n_seeds']} seeds)" if several else "",
            )
        )
    of = score_of[first]
    header = ("", "score", "of ceiling", f"gain over {first}", "p", "SD")
    return (
        f"**G = {granularity}**: {of['n_cells']:,} cells of {of['n_questions']} questions, "
        f"ceiling {of['ceiling']:.1f}, "
        f"{of['average']} averages.\n\n" + _table(header, rows)
    )


def _differences(unseen: Unseen) -> str:
    table = pd.read_csv(unseen.report / "differences.csv")
    granularity = table["granularity"].max()
    apart: dict[tuple[str, str], str] = {}
    for row in table[table["granularity"] == granularity].to_dict("records"):
        for sign, pair in ((1, (row["run"], row["other"])), (-1, (row["other"], row["run"]))):
            text = f"{sign * row['difference']:+.1f}"
            apart[pair] = f"**{text}**" if row["clear"] else text
    names = [*unseen.methods, *unseen.references]
    rows = [(one, *(apart.get((one, other), "") for other in names)) for one in names]
    header = ("", *(f"- {escape_markdown(name)}" for name in names))
    return (
        f"**Differences** at G = {granularity}: the score of a row less that of a column, paired; "
        f"bold where the 95 % interval is without zero and p below 0.05. Nothing allows for the "
        "number of tests.\n\n" + _table(header, rows)
    )


def _effects(unseen: Unseen) -> str:
    table = unseen.table("effect_distances")
    wide = table.pivot(index="run", columns="attribute", values="distance")
    attributes = [name for name in table["attribute"].unique() if name != ALL]
    overall = table[table["attribute"] == ALL].set_index("run")
    first = table[table["run"] == unseen.methods[0]].set_index("attribute")
    rows = []
    for label, column in (
        ("predicting no effect", "distance_no_effect"),
        ("sampling noise alone", "floor"),
    ):
        values = first[column]
        rows.append((f"({label})", *(f"{values[a]:.4f}" for a in attributes), f"{values[ALL]:.4f}"))
    for name in unseen.methods:
        of = overall.loc[name]
        interval = f" [{of['distance_low']:.4f}, {of['distance_high']:.4f}]"
        rows.append(
            (
                name,
                *(f"{wide.loc[name, a]:.4f}" for a in attributes),
                f"{of['distance']:.4f}{interval}",
            )
        )
    header = ("", *(name.replace("_", " ") for name in attributes), "all")
    pairs = first["n_pairs"].astype(int)[ALL]
    return (
        f"**Effects**: distance (Eq. 11) from the survey's over {pairs:,} pairs, less is better. A "
        "perfect model is at the sampling noise.\n\n" + _table(header, rows)
    )


def _classes(unseen: Unseen) -> str:
    table = unseen.table("classes")
    table = table[table["epsilon"] == EPSILON]
    kinds = ("Aligned", "Erasure", "Stereotyping", "Flipped")
    share = table.set_index(["run", "class"])["share"]
    rows = [(name, *(f"{share[name, kind]:.0f} %" for kind in kinds)) for name in unseen.methods]
    return (
        f"**Classes of effects** by topic and attribute, threshold {EPSILON:g} point.\n\n"
        + _table(("", *kinds), rows)
    )


def _audit(unseen: Unseen) -> str:
    table = pd.read_csv(unseen.report / "audit.csv")
    granularity = table["granularity"].max()
    table = table[table["granularity"] == granularity]
    asked, *variants = table["variant"].unique()
    of = {(row["run"], row["variant"]): row for row in table.to_dict("records")}
    rows = []
    for name in table["run"].unique():
        plain = of[name, asked]
        others = (of.get((name, variant)) for variant in variants)
        rows.append(
            (
                name,
                f"{plain['option_mass']:.1f} %",
                f"{plain['score']:.1f}",
                *(f"{one['score']:.1f} ({one['moved']:.1f})" if one else "" for one in others),
            )
        )
    header = ("", "option mass", "as asked", *(name.replace("_", " ") for name in variants))
    return (
        f"**Audit** at G = {granularity}, flat averages: the probability that falls on any option, "
        "the score as asked and asked otherwise, and in brackets how far answers then move "
        "(100 W1 / (K - 1)).\n\n" + _table(header, rows)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ("---", *("---:" for _ in header[1:]))]
    lines += [(escape_markdown(name), *rest) for name, *rest in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _p(value: float) -> str:
    return "" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _distinct(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(texts))


if __name__ == "__main__":
    command.run(main)
