"""The tables of a report, which `evaluation` computes, and what they say in sentences."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import alignment_table, scored_cells, topics_of
from ace_jax.evaluation.blocks import SEEN, block_table
from ace_jax.evaluation.ceilings import cell_ceilings, effect_floors
from ace_jax.evaluation.comparison import (
    composition_table,
    convergence,
    difference_table,
    gain_table,
    stacked,
    tier_scores,
)
from ace_jax.evaluation.effects import (
    class_shares,
    effect_summary,
    effect_table,
    question_effects,
)
from ace_jax.evaluation.references import ORACLES, REFERENCES, REPEATS
from ace_jax.evaluation.slopes import (
    ALIGNED,
    ATTRIBUTES,
    PART,
    UNCLEAR,
    products,
    slope_differences,
    slope_table,
    verdict,
)
from ace_jax.evaluation.uncertainty import ALL, Average
from ace_jax.report.runs import Methods, Run, known_questions, marks_of, reference_runs
from ace_jax.survey.pairs import COUNTRY
from ace_jax.survey.readers.sources import TIERS
from ace_jax.survey.split import HeldOut

EFFECT = ("country", "attribute", "combination", "question_id")
WHY_UNCLEAR = "too few questions, or too small differences in the survey"
NO_EFFECT, NOISE_FLOOR = "predicting no effect", "sampling noise alone"
GAINS = ["n_seeds", "seed_sd", "gain", "gain_low", "gain_high", "p_value"]


@dataclass(frozen=True)
class Findings:
    """The tables of a report and what they are about.

    Methods and references have the same cells; gains are over the first method. `tables` are tidy
    means over a method's seeds: the columns of the function in `evaluation` that makes them, and
    `run`, the method's name. One that cannot be made is absent, and `notes` say why. `marks` are
    sentences that every reader must see, such as a mismatch that was allowed.
    """

    methods: Methods
    references: tuple[str, ...]
    questions: pd.DataFrame
    average: Average
    tables: Mapping[str, pd.DataFrame]
    marks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The methods' names, in order."""
        return list(self.methods)

    @property
    def first(self) -> Run:
        """The first run, for everything that does not depend on methods and seeds."""
        return self.methods[self.names[0]][0]

    @property
    def granularities(self) -> list[int]:
        """The granularities evaluated, in order."""
        return sorted(map(int, self.first.predictions["granularity"].unique()))

    @property
    def best(self) -> str:
        """The method with the highest score at the finest granularity."""
        scores = self.finest("scores").query("run in @self.names")
        return str(scores.sort_values("score")["run"].iloc[-1])

    @property
    def shown(self) -> str:
        """The method to show beside the first: the best, or the last if the first is the best."""
        return self.best if self.best != self.names[0] else self.names[-1]

    @property
    def yardsticks(self) -> pd.DataFrame:
        """The rows to compare effect distances with, under a name in the place of a method's."""
        distances = self.tables["effect_distances"]
        first = distances[distances["run"] == self.names[0]].drop(columns=["distance"])
        columns = {NO_EFFECT: "distance_no_effect", NOISE_FLOOR: "floor"}
        return pd.concat([first.assign(run=n, distance=first[of]) for n, of in columns.items()])

    def over_countries(self, name: str) -> pd.DataFrame:
        """Returns the rows of a table that are means over countries."""
        return self.tables[name].query("country == @ALL")

    def finest(self, name: str) -> pd.DataFrame:
        """Returns the rows of a table over countries, at the finest granularity."""
        return self.over_countries(name).query("granularity == @self.granularities[-1]")


def find(methods: Methods, notes: Sequence[str], average: Average) -> Findings:
    """Builds every table of methods on the same cells (`on_common_cells`).

    References are those of the first run. Raises InputError as `reference_runs`.
    """
    first = next(iter(methods.values()))[0]
    references, notes = reference_runs(first), list(notes)
    if not references:
        notes.append(f"No references: {first.name} has none; score it with ace_jax.evaluate.")
    everything = {**methods, **references}
    seed, min_n = int(first.identity["seed"]), int(first.identity["data"]["min_n"])
    runs = [run for of in methods.values() for run in of]
    questions = known_questions(runs)
    ceiling = cell_ceilings(first.predictions, seed)
    cells = {
        name: [
            scored_cells(run.predictions, questions, first.attributes).assign(ceiling=ceiling)
            for run in of
        ]
        for name, of in everything.items()
    }
    alone = stacked(cells).drop(columns=["gain", "gain_variance"])
    gains = gain_table(cells, average)
    tables = {
        "scores": _by_run(gains.drop(columns=GAINS), everything),
        "topics": _by_run(alignment_table(alone, average, ["topic", "run"]), everything),
        "gains": gains.drop(columns=["ceiling", "percent_of_ceiling"]),
    }
    if len(cells) > 1:
        tables["differences"] = difference_table(cells, average, references=list(references))
    countries = set(first.predictions["country"])
    tiers = {TIERS[country] for country in countries & set(TIERS)}
    scores = {name: tables["scores"].query("run == @name") for name in methods}
    if untiered := sorted(countries - set(TIERS)):
        notes.append(f"No tier for {', '.join(untiered)}: the paper assigns 14 countries only.")
    if len(tiers) > 1:
        tables["tiers"] = tier_scores(scores)
    if {1, 3} <= tiers:
        tables["gaps"] = convergence(scores)
    if first.holds_out_personas:
        of_methods = {name: cells[name] for name in methods}
        tables["composition"] = composition_table(of_methods, average)
    sums = pd.concat(_of_each(everything, products, min_n), ignore_index=True)
    tables["slopes"] = slope_table(sums, ["run"])
    if len(methods) > 1:
        tables["effect_differences"] = slope_differences(sums[sums["run"].isin(methods)])
    held_out = first.identity.get("held_out")
    if any(run.identity.get("held_out") != held_out for run in runs):
        notes.append("No table of blocks: the runs did not hold out the same.")
    elif held_out:
        tables["blocks"] = block_table(
            {name: [run.predictions for run in of] for name, of in everything.items()},
            HeldOut(**{unit: tuple(ids) for unit, ids in held_out.items()}),
            first.attributes,
            min_n,
        )
    try:
        tables |= _effects(everything, questions, min_n, seed)
    except InputError as error:
        notes.append(f"Effects are missing: {error}.")
    if len(gaps := _order_gaps(methods)):
        tables["order_gaps"] = gaps
    marks, names = tuple(marks_of(runs)), tuple(references)
    return Findings(methods, names, questions, average, tables, marks, tuple(notes))


def _by_run(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Returns a table sorted by its runs, whose column comes last."""
    tables = [table[table["run"] == name] for name in names]
    return pd.concat(tables, ignore_index=True)[[*table.columns.drop("run"), "run"]]


def _effects(
    everything: Methods, questions: pd.DataFrame, min_n: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Builds the tables on effects. Raises InputError if there is no pair."""
    each = _of_each(everything, effect_table, min_n)
    first = next(iter(everything.values()))[0]
    floor = effect_floors(first.predictions, each[0], seed)
    pairs = pd.concat([of.assign(floor=floor) for of in each], ignore_index=True)
    distances = [
        effect_summary(of, ("run", "attribute")) for of in (pairs, pairs.assign(attribute=ALL))
    ]
    # Each seed is a model with its own effects: their mean would look better than any of them.
    effects = question_effects(pairs, ["run", "seed"])
    means = effects.groupby(["run", *EFFECT], sort=False).mean(numeric_only=True).reset_index()
    means = means.drop(columns="seed")
    topic = topics_of(means["question_id"], questions)
    of_methods = effects[~effects["run"].isin(REFERENCES)]
    return {
        "effects": _by_run(means.assign(topic=topic), everything),
        "effect_distances": _by_run(pd.concat(distances), everything),
        "classes": class_shares(of_methods),
    }


def _order_gaps(methods: Methods) -> pd.DataFrame:
    """Returns how far the order of options moves answers (0-100): run, question_id, gap.

    `ALL` is the mean over questions. Runs that did not record it are left out.
    """
    rows = [
        (name, question, 100 * gap)
        for name, of in methods.items()
        for run in of
        if (its := run.identity.get("order_gap"))
        for question, gap in {ALL: its["mean"], **its["questions"]}.items()
    ]
    table = pd.DataFrame(rows, columns=["run", "question_id", "gap"])
    return table.groupby(["run", "question_id"], sort=False).mean().reset_index()


def _of_each(
    methods: Methods, table_of: Callable[..., pd.DataFrame], min_n: int
) -> list[pd.DataFrame]:
    """Returns a table of each run, with its method's name and the number of its seed."""
    return [
        table_of(run.predictions, run.attributes, min_n).assign(run=name, seed=i)
        for name, runs in methods.items()
        for i, run in enumerate(runs)
    ]


def headline(findings: Findings) -> list[str]:
    """Returns sentences on the best method, at the finest granularity, over countries.

    They say whether it answers like these people, better than a table would; whether it moves as
    they move; and where it is least to be trusted. Unseen questions, unseen countries and what was
    seen are apart, where there are several.
    """
    parts = _parts(findings)
    slopes = findings.finest("slopes").query("run == @findings.best").set_index("toggle")
    moves = {ATTRIBUTES: "Does it move as they move", COUNTRY: "Does it tell countries apart"}
    against = {part: _answers(findings, part, its["score"]) for part, its in parts.items()}
    said = [_asked("Does it answer like these people, better than a table would", against)]
    for toggle, ask in moves.items():
        if toggle in slopes.index:
            of = [f"{toggle}_slope_low", f"{toggle}_slope", f"{toggle}_slope_high"]
            rows = {
                part: _moves(*its.loc[findings.best, of]) + _best_table(findings, part, its[of[1]])
                for part, its in parts.items()
            }
            unclear = (
                f"; {UNCLEAR}: {WHY_UNCLEAR}"
                if any(UNCLEAR in row for row in rows.values())
                else ""
            )
            said.append(f"{_asked(ask, rows)} (0 is no difference, 1 the survey's{unclear})")
    return [f"{sentence}." for sentence in (*said, _least_trusted(findings, slopes))]


def _parts(findings: Findings) -> dict[str, pd.DataFrame]:
    """Returns scores (0-100) and slopes by run of each block; of all cells if there is only one."""
    blocks = findings.tables.get("blocks", pd.DataFrame(columns=["granularity", "block"]))
    blocks = blocks[blocks["granularity"] == findings.granularities[-1]]
    if blocks["block"].nunique() > 1:
        percent = blocks.assign(score=100 * blocks["score"])
        found = {str(block): its.set_index("run") for block, its in percent.groupby("block")}
        return dict(sorted(found.items(), key=lambda part: (part[0].startswith("both"), part[0])))
    table, slopes = findings.finest("scores").set_index("run"), findings.finest("slopes")
    for toggle in (ATTRIBUTES, COUNTRY):
        its = slopes[slopes["toggle"] == toggle].set_index("run")
        table = table.join(its[["slope", "slope_low", "slope_high"]].add_prefix(f"{toggle}_"))
    return {"": table}


def _asked(ask: str, answers: Mapping[str, str]) -> str:
    parts = [f"{part}: {said}" if part else said for part, said in answers.items()]
    first, *rest = parts
    return "; ".join([f"{ask}? {first[0].upper()}{first[1:]}", *rest])


def _tables(findings: Findings, part: str, values: pd.Series) -> pd.Series:
    """Returns the values of the references that know no more than the model may."""
    seen = part == SEEN or findings.first.identity["data"].get("split") != "held_out"
    unfair = (*ORACLES, *(REPEATS if seen else ()))
    return values[[name for name in findings.references if name not in unfair]].dropna()


def _best_table(findings: Findings, part: str, slopes: pd.Series) -> str:
    """Returns the slope of the reference that is nearest to the survey's."""
    tables = _tables(findings, part, slopes)
    if tables.empty:
        return ""
    best = str((tables - 1).abs().idxmin())
    return f", the best table ({best}) {tables[best]:.2f}"


def _answers(findings: Findings, part: str, scores: pd.Series) -> str:
    score, tables = float(scores[findings.best]), _tables(findings, part, scores)
    of = f"{findings.best} has {score:.1f} of 100"
    if tables.empty:
        return f"there is no table to compare with, {of}"
    best, reached = tables.idxmax(), float(tables.max())
    return f"{'yes' if score > reached else 'no'}, {of}, the best table ({best}) {reached:.1f}"


def _moves(low: float, slope: float, high: float) -> str:
    said = verdict(low, slope, high)
    return said if said == UNCLEAR else f"{said}, slope {slope:.2f} [{low:.2f}, {high:.2f}]"


def _least_trusted(findings: Findings, slopes: pd.DataFrame) -> str:
    topics = findings.finest("topics").query("run == @findings.best").sort_values("score")
    weak = [
        str(toggle).replace("_", " ")
        for toggle, row in slopes.drop(index=ATTRIBUTES, errors="ignore").iterrows()
        if row["verdict"] not in (ALIGNED, PART)
    ]
    parts = [f"the topic {topics['topic'].iloc[0]} (score {topics['score'].iloc[0]:.1f})"]
    parts += [f"differences by {', '.join(weak)}"] if weak else []
    return f"Where should you trust it least? {'; '.join(parts)}"
