"""Everything that a report says of several runs, as tidy tables: composed, not computed here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import alignment_table, level_cells, scored_cells, topics_of
from ace_jax.evaluation.ceilings import cell_ceilings, effect_floors
from ace_jax.evaluation.comparison import difference_table, gain_table
from ace_jax.evaluation.effects import (
    class_shares,
    effect_summary,
    effect_table,
    heterogeneity,
    transitions,
)
from ace_jax.evaluation.equity import (
    TIERS,
    composition_table,
    convergence,
    tier_gains,
    tier_scores,
    untiered,
)
from ace_jax.evaluation.uncertainty import Average
from ace_jax.report.runs import Method, Run
from ace_jax.survey.personas import Attribute

ALL = "ALL"
EPSILON = 1.0  # points: what counts as aligned, where one threshold is needed
EPSILONS = (0.5, EPSILON, 2.0, 3.0, 5.0)
NO_EFFECT, NOISE_FLOOR = "predicting no effect", "sampling noise alone"
IN_AUDIT = ("score", "ci_low", "ci_high", "moved", "option_mass")  # of 1 there, of 100 here
NO_TOPIC = "(topic not known)"

T = TypeVar("T")


@dataclass(frozen=True)
class Findings:
    """What was found, and on what.

    `methods`: what is compared, on the same cells; the others' gains are over the first one.
    `references`: names of those that asked no model. `tables`: name -> tidy table, of means over a
    method's seeds (the columns are those of the function of `analysis` that it comes from, and
    `run`, the method's name); one that could not be made is not there, and `notes` say why.
    `average`: how scores are averaged.
    """

    methods: tuple[Method, ...]
    references: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    questions: pd.DataFrame
    average: Average
    tables: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The methods' names, in order."""
        return [method.name for method in self.methods]

    @property
    def cells(self) -> pd.DataFrame:
        """The predictions of the first run: which cells there are, and the survey's answers."""
        return self.methods[0].first.predictions

    @property
    def seeds(self) -> dict[str, int]:
        """How many seeds each method is the mean of, where any has several."""
        seeds = {method.name: len(method.seeds) for method in self.methods}
        return seeds if max(seeds.values()) > 1 else {}

    @property
    def granularities(self) -> list[int]:
        """Those that were evaluated, in order."""
        return sorted(int(granularity) for granularity in self.cells["granularity"].unique())

    @property
    def has_topics(self) -> bool:
        """Whether any question's topic is known."""
        return set(self.questions["topic"]) != {NO_TOPIC}

    def best(self, granularity: int) -> str:
        """Returns the method of the highest score over countries."""
        scores = self.tables["scores"]
        here = (scores["granularity"] == granularity) & (scores["country"] == ALL)
        of_methods = scores[here & scores["run"].isin(self.names)]
        return str(of_methods.sort_values("score")["run"].iloc[-1])


def find(everything: Sequence[Method], notes: Sequence[str], average: Average) -> Findings:
    """Returns what there is to say of methods and references on the same cells.

    Args:
      everything: of `runs.on_common_cells`.
      notes: what was left out already.
      average: of the scores.
    """
    methods = [one for one in everything if not one.first.is_reference] or list(everything)
    references = [one for one in everything if one not in methods]
    first = methods[0].first
    attributes, seed = first.attributes, int(first.identity["seed"])
    questions = known_questions([run for one in everything for run in one.seeds])
    notes = [*notes, *_missing(methods, questions)]
    ceiling = cell_ceilings(first.predictions, seed)

    def cells_of(run: Run) -> pd.DataFrame:
        return scored_cells(run.predictions, questions, attributes).assign(ceiling=ceiling)

    apart = {one.name: [cells_of(run) for run in one.seeds] for one in (*methods, *references)}
    cells = {name: _pooled(of) for name, of in apart.items()}
    names = [one.name for one in methods]
    by_level = partial(alignment_table, average=average, by=("attribute", "level"))
    tables = {
        "scores": _of_runs(cells, partial(alignment_table, average=average)),
        "topics": _of_runs(cells, partial(alignment_table, average=average, by=("topic",))),
        "levels": _of_runs(
            {name: cells[name] for name in names}, lambda of: by_level(level_cells(of, attributes))
        ),
        "gains": gain_table(apart, average, seed=seed),
    }
    if len(apart) > 1:
        tables["differences"] = difference_table(apart, average, seed=seed)
    tables |= _equity(tables["scores"][tables["scores"]["run"].isin(names)])
    if first.holds_out_personas:
        of_methods = {name: apart[name] for name in names}
        tables["composition"] = composition_table(of_methods, average, seed=seed)
    try:
        tables |= _effects(methods, questions, int(first.identity["data"]["min_n"]), seed)
    except InputError as error:
        notes.append(f"Effects are missing: {error}.")
    audits = {one.name: audit for one in methods if (audit := one.audit) is not None}
    if audits:
        audit = pd.concat(audits, names=["run"]).reset_index("run")
        shares = [name for name in IN_AUDIT if name in audit]
        tables["audit"] = audit.assign(**{name: 100 * audit[name] for name in shares})
    return Findings(
        tuple(methods),
        tuple(one.name for one in references),
        attributes,
        questions,
        average,
        tables,
        tuple(notes),
    )


def known_questions(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns question_id, topic, text, option_labels of the questions scored.

    What no run knows is the question's id, "(topic not known)" and the options' numbers.
    """
    known = pd.concat([run.questions for run in runs if run.questions is not None] or [_NONE])
    texts_of = {row["question_id"]: row for row in known.to_dict("records")}
    scored = runs[0].predictions.drop_duplicates("question_id")
    rows = []
    for question_id, p in zip(scored["question_id"], scored["p_data"], strict=True):
        if question_id in texts_of:
            row = texts_of[question_id]
            texts = (str(row["topic"]), str(row["text"]), [str(o) for o in row["option_labels"]])
        else:
            texts = (NO_TOPIC, str(question_id), [])
        labels = texts[2] if len(texts[2]) == len(p) else [str(k + 1) for k in range(len(p))]
        rows.append((str(question_id), texts[0] or NO_TOPIC, texts[1], labels))
    return pd.DataFrame(rows, columns=["question_id", "topic", "text", "option_labels"])


_NONE = pd.DataFrame(columns=["question_id", "topic", "text", "option_labels"])


def _pooled(of_seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Puts what several seeds have under one another, told apart by a column `seed`."""
    return pd.concat([of.assign(seed=i) for i, of in enumerate(of_seeds)], ignore_index=True)


def _of_runs(cells: Mapping[str, T], table: Callable[[T], pd.DataFrame]) -> pd.DataFrame:
    tables = [table(of).assign(run=name) for name, of in cells.items()]
    return pd.concat(tables, ignore_index=True)


def _equity(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tiers and their gaps; nothing where no country has a tier."""
    by_run = {str(name): rows for name, rows in scores.groupby("run", sort=False)}
    base = next(iter(by_run.values()))
    tiers = {TIERS[country] for country in base["country"].unique() if country in TIERS}
    if len(tiers) < 2:
        return {}
    tables = {"tiers": _of_runs(by_run, tier_scores)}
    if {1, 3} <= tiers:
        tables["gaps"] = convergence(by_run)
    later = dict(list(by_run.items())[1:])
    if later:
        tables["tier_gains"] = _of_runs(later, lambda of: tier_gains(base, of))
    return tables


def _effects(
    methods: Sequence[Method], questions: pd.DataFrame, min_n: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Effects, their distances and classes. Raises InputError where there is no pair."""
    attributes, first = methods[0].first.attributes, methods[0].name
    apart = {
        one.name: [effect_table(run.predictions, attributes, min_n) for run in one.seeds]
        for one in methods
    }
    floor = effect_floors(methods[0].first.predictions, apart[first][0], seed)
    topic = topics_of(apart[first][0]["question_id"], questions)
    apart = {
        name: [of.assign(floor=floor, topic=topic) for of in seeds] for name, seeds in apart.items()
    }
    pairs = {name: _pooled(seeds) for name, seeds in apart.items()}
    summaries = {name: effect_summary(of) for name, of in pairs.items()}
    # Each seed is a model with effects of its own, and shares are the mean of theirs: an effect
    # averaged over seeds would go wrong less often than that of any one of them.
    by_seed = {
        name: [_by_country(effect_summary(of)) for of in seeds] for name, seeds in apart.items()
    }
    tables = {
        "effects": _of_runs(summaries, lambda of: of),
        "effect_distances": _of_runs(pairs, _distances),
        "classes": pd.concat(
            [
                _of_runs(by_seed, partial(_classes, epsilon=epsilon)).assign(epsilon=epsilon)
                for epsilon in EPSILONS
            ],
            ignore_index=True,
        ),
        "influence": heterogeneity(summaries[first]),
    }
    later = dict(list(by_seed.items())[1:])
    if later:
        tables["transitions"] = _of_runs(later, partial(_transitions, by_seed[first]))
    return tables


def _distances(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean effect distances by attribute and over all of them."""
    tables = [effect_summary(of, ("attribute",)) for of in (pairs, pairs.assign(attribute=ALL))]
    return pd.concat(tables, ignore_index=True)


def _classes(seeds: Sequence[pd.DataFrame], epsilon: float) -> pd.DataFrame:
    """Shares of classes by country, and over the effects of all countries, of all seeds."""
    effects = pd.concat(seeds, ignore_index=True)
    tables = [class_shares(of, epsilon) for of in (effects, effects.assign(country=ALL))]
    return pd.concat(tables, ignore_index=True)


def _transitions(before: Sequence[pd.DataFrame], after: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Where effects went from the first method to another one, seed by seed."""
    count = max(len(before), len(after))  # one alone is compared with all of the other's
    one, other = (
        pd.concat([of[i % len(of)] for i in range(count)], ignore_index=True)
        for of in (before, after)
    )
    return transitions(one, other, EPSILON)


def _by_country(summary: pd.DataFrame) -> pd.DataFrame:
    return summary[summary["country"] != ALL].reset_index(drop=True)


def _missing(methods: Sequence[Method], questions: pd.DataFrame) -> list[str]:
    """Says what a full report has and this one cannot have."""
    cells = methods[0].first.predictions
    granularities = cells["granularity"].unique()
    unknown = int((questions["topic"] == NO_TOPIC).sum())
    unaudited = [one.name for one in methods if one.audit is None]
    outside = untiered(cells)
    said = {
        "There is one run only, so nothing is compared.": len(methods) == 1,
        "No run has an adapter: all of them are base models.": not any(
            run.identity.get("adapter") for one in methods for run in one.seeds
        ),
        f"Only granularity {granularities[0]} was evaluated.": len(granularities) == 1,
        f"Topic, text and options of {unknown} of {len(questions)} questions are not known: "
        "these runs were evaluated before evaluate wrote questions.parquet.": unknown > 0,
        f"No tier is known of {', '.join(outside)}: the paper sorts 14 countries only.": outside,
        f"No audit of {', '.join(unaudited)} (evaluate with --config.audit=True).": unaudited,
    }
    return [sentence for sentence, holds in said.items() if holds]
