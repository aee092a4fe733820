"""How many interviews an adapter saves in countries that it has not seen (docs/results.md).

    python benchmarks/pilot.py --input eqls_2007_2011.parquet --run runs/eqls/joint-{0,1,2} \
        --output benchmarks/results/pilot_eqls.json --figure docs/figures/pilot.png

A part of the respondents of the unseen countries is asked. Each way of using them answers for all
groups, and is compared with what the other respondents of those countries said. A run has the
directories of `evaluate`: train (the cells it saw) and held_out.

sample         the shares of the sample; a group that it lacks gets its persona's mean
smoothed       the sample's shares, drawn to the main effects of question and country (`shrunk`)
persona, main_effects
               tables of the seen countries' respondents and the sample's, as in the references
X + sample     X, with the weight of so many respondents as make the sample's answers likeliest

The last are the posterior mean under a Dirichlet prior around X. `model` is the adapter alone,
`combined` the persona table of the seen countries, moved by it (`evaluation.combined`).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import gammaln

from ace_jax import load_survey
from ace_jax.evaluation.alignment import Distributions, alignment_distances
from ace_jax.evaluation.combined import combined
from ace_jax.evaluation.references import reference_answers
from ace_jax.report.runs import Run, read_runs
from ace_jax.survey.build import build
from ace_jax.survey.cells import PARTS, split_respondents
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.estimators import shrunk
from ace_jax.survey.readers import sources
from ace_jax.survey.readers.tables import Raw

STRENGTHS = np.geomspace(1, 3000, 60)  # respondents that a prior may count for
LEAST = 1e-4
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
Answers = list[Float[np.ndarray, "_"]]


@dataclass(frozen=True)
class Adapter:
    """An evaluated run, and where its answers for the unseen countries are found."""

    train: Run
    held_out: Run

    def answers(self) -> dict[str, pd.DataFrame]:
        """Returns its own answers to cells of unseen countries, and the combined ones."""
        seen, names = self.train.predictions, [one.name for one in self.train.attributes]
        new = self.held_out.predictions
        new = new[~new["country"].isin(seen["country"])]
        new = new[new["question_id"].isin(seen["question_id"])]
        return {"model": new, "combined": combined(seen, new, names).predictions}


def with_sample(prior: Answers, sample: Answers, n: np.ndarray) -> tuple[Answers, float]:
    """Returns the posterior means of some cells and the respondents that the prior counts for.

    The strength is the one under which the sample is likeliest (Dirichlet-multinomial).
    """
    # Options that a question lacks have the prior 1 and no answers, which changes nothing.
    known = Distributions.of(pd.Series(prior, dtype=object))
    there = np.arange(known.p.shape[1]) < known.options[:, None]
    priors = np.where(there, known.p + LEAST, 0)
    priors /= priors.sum(axis=1, keepdims=True)
    counts = n[:, None] * Distributions.of(pd.Series(sample, dtype=object)).p
    safe = np.where(there, priors, 1)

    def likelihood(strength: float) -> float:
        total = gammaln(strength) - gammaln(strength + n)
        return float(
            total.sum() + (gammaln(strength * safe + counts) - gammaln(strength * safe)).sum()
        )

    best = float(STRENGTHS[np.argmax([likelihood(strength) for strength in STRENGTHS])])
    answers = (counts + best * priors) / (n + best)[:, None]
    return [p[:size] for p, size in zip(answers, known.options, strict=True)], best


def keyed(cells: pd.DataFrame, attributes: Sequence[str]) -> pd.Index:
    """Returns what each cell is called: country, question and persona."""
    who = cells[["country", "question_id", *attributes]].fillna("").astype(str)
    return pd.Index(who.agg("|".join, axis=1))


def ways(
    targets: pd.DataFrame, known: Dataset, sample: pd.DataFrame, adapters: Sequence[Adapter]
) -> dict[str, list[tuple[Answers, float]]]:
    """Returns each way's answers to `targets`, by adapter seed, with the strength of its prior.

    `sample` has the cells of the unseen countries' sample, `known` these and the seen countries'.
    """
    names = [one.name for one in known.attributes]
    keys = keyed(targets, names)
    tables = reference_answers(targets, known, np.ones(len(known.cells), bool))
    index = keyed(sample, names)
    p = dict(zip(index, sample["p"], strict=True))
    smooth = dict(zip(index, shrunk(sample, known.attributes)[0], strict=True))
    number = pd.Series(sample["n"].to_numpy(), index).reindex(keys).fillna(0).to_numpy()
    backed = tables["nearest"].p
    own = [p.get(key, other) for key, other in zip(keys, backed, strict=True)]
    found: dict[str, list[tuple[Answers, float]]] = {
        "sample": [(own, 0.0)],
        "smoothed": [([smooth.get(key, q) for key, q in zip(keys, backed, strict=True)], 0.0)],
    }
    for name in ("persona", "main_effects"):
        answers = list(tables[name].p)
        found[name] = [(answers, 0.0)]
        found[f"{name} + sample"] = [with_sample(answers, own, number)]
    for adapter in adapters:
        for name, its in adapter.answers().items():
            by_key = dict(zip(keyed(its, names), its["p_model"], strict=True))
            answers = [np.asarray(by_key[key], np.float64) for key in keys]
            found.setdefault(name, []).append((answers, 0.0))
            found.setdefault(f"{name} + sample", []).append(with_sample(answers, own, number))
    return found


def others(cells: pd.DataFrame, sample: pd.DataFrame, attributes: list[str]) -> pd.DataFrame:
    """Returns cells without the respondents of the sample: n and p, where 10 or more are left."""
    drawn = sample.set_index(keyed(sample, attributes))[["n", "p"]]
    rows = []
    for key, n, p in zip(keyed(cells, attributes), cells["n"], cells["p"], strict=True):
        its, shares = drawn.loc[key] if key in drawn.index else (0, p)
        left = n * np.asarray(p, np.float64) - its * np.asarray(shares, np.float64)
        rows.append((n - its, np.maximum(left, 0) / max(n - its, 1)))
    rest = cells.assign(n=[n for n, _ in rows], p=[p for _, p in rows])
    return rest[rest["n"] >= 10].reset_index(drop=True)


def distances(path: Path, raw: Raw, adapters: Sequence[Adapter], sample: str) -> pd.DataFrame:
    """Returns the mean distance (0-1) of each way for one draw: way, question_id, distance.

    `raw` has the respondents of the unseen countries, `sample` is as of `prepare --sample`.
    """
    survey, seen = load_survey("eqls2011"), adapters[0].train.predictions
    drawn = build(split_respondents(raw, sample)[PARTS[0]], [path], {}).cells
    every, drawn = (
        cells[cells["question_id"].isin(seen["question_id"])].reset_index(drop=True)
        for cells in (survey.cells, drawn)
    )
    before = every["country"].isin(seen["country"])
    names = [one.name for one in survey.attributes]
    targets = others(every[~before & (every["granularity"] == 1)], drawn, names)
    cells = pd.concat([every[before], drawn], ignore_index=True)
    truth = Distributions.of(targets["p"])
    rows = []
    for way, of_seeds in ways(targets, replace(survey, cells=cells), drawn, adapters).items():
        each = [
            alignment_distances(truth, Distributions.of(pd.Series(p, dtype=object)))
            for p, _ in of_seeds
        ]
        strength = float(np.mean([strength for _, strength in of_seeds]))
        table = pd.DataFrame({"question_id": targets["question_id"], "distance": np.mean(each, 0)})
        by_question = table.groupby("question_id", as_index=False)["distance"].mean()
        rows.append(by_question.assign(way=way, strength=strength))
    return pd.concat(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Returns distance, its range over draws, and what sample would be as good, by way.

    `needed` is the share of respondents with whom the sample's own shares are as near; it is read
    off the line between the samples tried, in logarithms, and NaN beyond them.
    """
    by = table.groupby(["way", "share", "draw"], sort=False)
    each = by.agg(distance=("distance", "mean"), strength=("strength", "mean")).reset_index()
    rows = []
    own = each[each["way"] == "sample"].groupby("share")["distance"].mean().sort_index()
    logs = np.log(own.to_numpy())[::-1], np.log(own.index.to_numpy())[::-1]
    for (way, share), its in each.groupby(["way", "share"], sort=False):
        mean = its["distance"].mean()
        needed = np.exp(np.interp(np.log(mean), *logs, left=np.nan, right=np.nan))
        low, high = its["distance"].min(), its["distance"].max()
        values = {"distance": mean, "low": low, "high": high, "needed": float(needed)}
        rows.append({"way": way, "share": share, **values, "strength": its["strength"].mean()})
    return pd.DataFrame(rows)


def draw_figure(table: pd.DataFrame, path: Path) -> None:
    """Draws distance against the share of respondents, both in logarithms."""
    styles: Mapping[str, str] = {
        "sample": "k-o", "smoothed": "C7-s", "main_effects + sample": "C0-^",
        "persona + sample": "C2-P", "model + sample": "C1-v", "combined + sample": "C3-D",
        "combined": "C3:",
    }  # fmt: skip
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for way, style in styles.items():
        its = table[table["way"] == way].sort_values("share")
        axes.plot(100 * its["share"], 100 * its["distance"], style, label=way, markersize=5)
        if not style.endswith(":"):
            bounds = 100 * its["low"], 100 * its["high"]
            axes.fill_between(100 * its["share"], *bounds, color=style[:-2], alpha=0.15, lw=0)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(2.2, 16),
        xlabel="respondents asked in the new countries (%)",
    )
    axes.set_ylabel("distance to the others' answers (points of 100)")
    shares, marks = sorted(100 * table["share"].unique()), [3, 4, 6, 8, 12]
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_yticks(marks, map(str, marks))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


def main() -> None:
    """Prints and writes the table, and draws it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--run", type=Path, nargs="+", required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    given = parser.parse_args()
    adapters = [
        Adapter(*(read_runs(part, run / part)[0] for part in ("train", "held_out")))
        for run in given.run
    ]
    new = adapters[0].held_out.predictions["country"].unique()
    new = sorted(set(new) - set(adapters[0].train.predictions["country"]))
    raw = sources.read("eqls2011", [given.input], countries=new)
    tables = [
        distances(given.input, raw, adapters, f"{share}@{draw}").assign(share=share, draw=draw)
        for share in SHARES
        for draw in range(given.draws)
    ]
    table = summary(pd.concat(tables, ignore_index=True))
    print(table.to_string(index=False, float_format="{:.4f}".format))
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    given.output.write_text(json.dumps(rows, indent=1) + "\n")
    draw_figure(table, given.figure)


if __name__ == "__main__":
    main()
