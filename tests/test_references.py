"""References against plain loops over a small made-up survey, and what they may not see."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from ace_jax.evaluation.answers import predictions_table
from ace_jax.evaluation.references import (
    HALF,
    ORACLES,
    REFERENCES,
    ROUNDS,
    SHRINK,
    reference_answers,
)
from ace_jax.survey.dataset import Dataset, read_dataset, select_questions
from ace_jax.survey.personas import attributes_of, personas
from ace_jax.survey.split import Split

GSS = read_dataset("gss2018")
LEVELS = {"sex": ("m", "f"), "age": ("young", "middle", "old")}
TEXTS = {"cats": "Do you like cats", "dogs": "Do you like big dogs", "tax": "Are taxes high"}
TEXTS |= {"new": "Do you like small dogs", "two": "Is it true", "lone": "Of a size of its own"}
SIZES = {"cats": 3, "dogs": 3, "tax": 3, "new": 3, "two": 2, "lone": 4}


def made_up():
    """Three countries, five questions of which some are not asked everywhere, n of 1 to 40."""
    random, rows = np.random.default_rng(0), []
    people = [{}, *(p for g in (1, 2) for p in personas(attributes_of(LEVELS), g))]
    for country in ("AUT", "BEL", "CHE"):
        for question, size in SIZES.items():
            if (country, question) == ("BEL", "dogs"):
                continue
            for persona in people:
                if random.random() < 0.15 and len(persona) == 2:
                    continue
                row = {"country": country, "question_id": question, "granularity": len(persona)}
                n = int(random.integers(1, 40))
                p = random.multinomial(n, random.dirichlet(np.ones(size))) / n
                rows.append({**row, **dict.fromkeys(LEVELS), **persona, "n": n, "p": p})
    questions = pd.DataFrame({"question_id": list(TEXTS), "text": list(TEXTS.values())})
    labels = [[str(k) for k in range(SIZES[question])] for question in TEXTS]
    questions = questions.assign(source="any", topic="any", option_labels=labels)
    return Dataset(questions, pd.DataFrame(rows), {"attributes": LEVELS})


FITTED = tuple(name for name in REFERENCES if name not in ORACLES)
SURVEY = made_up()
HOLDOUT = "question:new+lone,country:CHE,persona:f/old"


def seen_of(survey, holdout):
    return ~Split(holdout).held_out(survey).cells(survey)


SEEN = seen_of(SURVEY, HOLDOUT)
CELLS = SURVEY.cells.astype(object).where(SURVEY.cells.notna(), None).to_dict("records")
LEARNT = [cell for cell, seen in zip(CELLS, SEEN, strict=True) if seen and cell["granularity"] == 2]


@pytest.fixture(scope="module")
def given():
    return reference_answers(SURVEY.cells, SURVEY, SEEN)


# The slow way: a cell is a dictionary, and LEARNT a list of those that may be used.


def matches(cell, persona):
    return all(persona[name] in (None, cell[name]) for name in LEVELS)


def pooled(cells):
    """The answer of all respondents of some cells; None if there are none."""
    n = sum(cell["n"] for cell in cells)
    return sum(cell["n"] * cell["p"] for cell in cells) / n if n else None


def of_question(question):
    return [cell for cell in LEARNT if cell["question_id"] == question]


def country_answers(cells):
    keys = sorted({(cell["country"], cell["question_id"]) for cell in cells})
    return [
        pooled([cell for cell in cells if (cell["country"], cell["question_id"]) == key])
        for key in keys
    ]


def mean(cell):
    like = country_answers([its for its in LEARNT if len(its["p"]) == len(cell["p"])])
    return np.mean(like, axis=0) if like else uniform(cell)


def uniform(cell):
    return np.full(len(cell["p"]), 1 / len(cell["p"]))


def persona_of(cell, question):
    its = of_question(question)
    answer = pooled([other for other in its if matches(other, cell)])
    return np.mean(country_answers(its), axis=0) if answer is None else answer


def persona(cell):
    return persona_of(cell, cell["question_id"]) if of_question(cell["question_id"]) else mean(cell)


def nearest(cell):
    # By hand: "small dogs" are most like "big dogs"; nothing has the size of the lone question.
    near = {"new": "dogs"}.get(cell["question_id"], cell["question_id"])
    if not of_question(near):
        return mean(cell)
    its = [other for other in of_question(near) if other["country"] == cell["country"]]
    answer = pooled([other for other in its if matches(other, cell)])
    return persona_of(cell, near) if answer is None else answer


def mean_nearest(cell):
    near = {"new": "dogs"}.get(cell["question_id"], cell["question_id"])
    if not of_question(near):
        return mean(cell)
    middle = np.mean(country_answers(of_question(near)), axis=0)
    its = of_question(cell["question_id"])
    level = np.mean(country_answers(its), axis=0) if its else mean(cell)
    return distribution(np.cumsum(level) + np.cumsum(nearest(cell)) - np.cumsum(middle))


def distribution(cumulative):
    answer, before = [], 0.0
    for share in [*np.clip(cumulative[:-1], 0, 1), 1.0]:
        answer.append(max(share - before, 0))
        before = max(share, before)
    return np.array(answer)


def mean_effect(cell):
    its = country_answers(of_question(cell["question_id"]))
    cumulative = np.cumsum(np.mean(its, axis=0) if its else mean(cell))
    for name, levels in LEVELS.items():
        if cell[name] is None:
            continue
        effects = []
        for other in levels:
            total, weights = np.zeros(len(cell["p"])), 0.0
            for a, b in combinations(LEARNT, 2):
                rest = ["country", "question_id", *(key for key in LEVELS if key != name)]
                if len(a["p"]) != len(cell["p"]) or any(a[key] != b[key] for key in rest):
                    continue
                if other == cell[name] or {a[name], b[name]} != {other, cell[name]}:
                    continue
                here, there = (a, b) if a[name] == cell[name] else (b, a)
                weight = 1 / (1 / here["n"] + 1 / there["n"])
                total += weight * (np.cumsum(here["p"]) - np.cumsum(there["p"]))
                weights += weight
            effects.append(total / weights if weights else total)
        cumulative = cumulative + np.mean(effects, axis=0)
    return distribution(cumulative)


def main_effects(cell):
    its, g = of_question(cell["question_id"]), cell["granularity"]
    if not its:
        return mean(cell)
    k, table = len(cell["p"]), {}
    who = {tuple(c[name] for name in LEVELS) for c in CELLS if c["granularity"] == g}
    for country in {other["country"] for other in its}:
        for levels in who:
            there = dict(zip(LEVELS, levels, strict=True))
            cells = [c for c in its if c["country"] == country and matches(c, there)]
            if cells:
                n = sum(c["n"] for c in cells)
                log = np.log((n * pooled(cells) + HALF / k) / (n + HALF))
                table[country, levels] = n, log
    everyone = sum(n for n, _ in table.values())
    middle = sum(n * log for n, log in table.values()) / everyone
    effects = [{}, {}]  # of countries, of personas
    for _ in range(ROUNDS):
        for side in (0, 1):
            sums = {}
            for key, (n, log) in table.items():
                left = log - middle - effects[1 - side].get(key[1 - side], 0)
                weight, total = sums.get(key[side], (0, 0))
                sums[key[side]] = weight + n, total + n * left
            effects[side] = {key: total / (n + SHRINK) for key, (n, total) in sums.items()}
    odds = np.exp(
        middle
        + effects[0].get(cell["country"], 0)
        + effects[1].get(tuple(cell[name] for name in LEVELS), 0)
    )
    return odds / odds.sum()


def no_effect(cell):
    its = [c for c in CELLS if c["granularity"] == 2 and c["country"] == cell["country"]]
    return pooled([c for c in its if c["question_id"] == cell["question_id"]])


def mode(cell):
    return np.eye(len(cell["p"]))[np.argmax(cell["p"])]


@pytest.mark.parametrize(
    "slow",
    [uniform, mean, mean_effect, nearest, mean_nearest, persona, main_effects, no_effect, mode],
)
def test_a_reference_is_what_plain_loops_say(slow, given):
    for cell, p in zip(CELLS, given[slow.__name__].p, strict=True):
        np.testing.assert_allclose(p, slow(cell), atol=1e-12, err_msg=str(cell))


def test_all_references_are_given_in_order_and_are_distributions(given):
    assert tuple(given) == REFERENCES
    for answers in given.values():
        assert all((p >= 0).all() and p.sum() == pytest.approx(1) for p in answers.p)
        assert (answers.option_mass == 1).all()
    said = "uniform where training has no scale of that size: lone"
    assert given["mean"].marks == (said,)
    assert given["uniform"].marks == ()


def test_some_cells_are_answered_as_all_are(given):
    rows = np.arange(len(SURVEY.cells))[5::7][::-1]
    some = reference_answers(SURVEY.cells.iloc[rows].reset_index(drop=True), SURVEY, SEEN)
    for name, answers in some.items():
        for row, p in zip(rows, answers.p, strict=True):
            np.testing.assert_allclose(p, given[name].p[row], atol=1e-12)


@pytest.mark.parametrize("holdout", ["question:0.3", "persona:paper"])
def test_references_see_nothing_that_training_may_not_see(holdout):
    seen = seen_of(GSS, holdout)
    # Coarser cells, too, are made of respondents whose personas are held out.
    hidden = ~seen | (GSS.cells["granularity"] < 4).to_numpy()
    before, after = (
        reference_answers(GSS.cells, survey, seen) for survey in (GSS, changed(GSS, hidden))
    )
    for name in FITTED:
        np.testing.assert_array_equal(*map(np.concatenate, (before[name].p, after[name].p)))
    assert not np.array_equal(*map(np.concatenate, (before["no_effect"].p, after["no_effect"].p)))
    others = reference_answers(GSS.cells, changed(GSS, seen), seen)
    for name in (*FITTED[1:], "no_effect"):
        assert not np.array_equal(*map(np.concatenate, (before[name].p, others[name].p)))


def changed(survey, rows):
    """The survey with other answers in some cells."""
    p = [np.roll(p, 1) if row else p for p, row in zip(survey.cells["p"], rows, strict=True)]
    return replace(survey, cells=survey.cells.assign(p=p))


def test_where_nothing_may_be_seen_answers_are_uniform():
    given = reference_answers(SURVEY.cells, SURVEY, np.zeros(len(SURVEY.cells), bool))
    for name in FITTED:
        np.testing.assert_array_equal(*map(np.concatenate, (given[name].p, given["uniform"].p)))


@pytest.mark.parametrize("attribute", ["gender", "residence"])
def test_no_effect_is_what_the_country_answers(attribute):
    """Everyone has a gender and a residence, so either one's two cells are the whole country."""
    given = reference_answers(GSS.cells, GSS, np.ones(len(GSS.cells), bool))["no_effect"].p
    given = pd.Series(given, GSS.cells.index)
    of = GSS.cells[(GSS.cells["granularity"] == 1) & GSS.cells[attribute].notna()]
    for question, cells in of.groupby("question_id"):
        whole = np.average(np.stack(list(cells["p"])), axis=0, weights=cells["n"])
        for p in given[GSS.cells["question_id"] == question]:
            np.testing.assert_allclose(p, whole, atol=1e-12)


def test_no_effect_takes_the_finest_cells_there_are():
    usa = select_questions(GSS, ("natspac",)).cells
    mexico = usa[usa["granularity"] == 2].assign(country="MEX")
    mexico["p"] = [p[::-1] for p in mexico["p"]]
    both = replace(GSS, cells=pd.concat([usa, mexico], ignore_index=True))
    given = reference_answers(both.cells, both, np.ones(len(both.cells), bool))["no_effect"].p
    np.testing.assert_allclose(given[-1], given[0][::-1], atol=1e-12)


def test_eqls_scores_are_those_of_the_documentation():
    """docs/analysis.md: unseen countries, unseen questions, both; G = 4, n >= 10."""
    survey = read_dataset("eqls2011")
    questions = ("freq_sports", "vol_social_charities", "sei_looked_down", "mwbi_felt_tense")
    questions += ("wlbc_fam_responsibilities",)
    countries = ("AUT", "BGR", "DNK", "EST", "ESP", "IRL", "POL", "SVK")
    holdout = f"question:{'+'.join(questions)},country:{'+'.join(countries)}"
    cells = survey.cells.query("granularity == 4 and n >= 10").reset_index(drop=True)
    given = reference_answers(cells, survey, seen_of(survey, holdout))
    question, country = cells["question_id"].isin(questions), cells["country"].isin(countries)
    for name, wanted in {
        "uniform": (74.8, 76.3, 75.6),
        "mean": (83.1, 86.5, 85.4),
        "mean_effect": (91.4, 86.7, 85.6),
        "nearest": (92.5, 87.7, 87.1),
        "mean_nearest": (92.5, 88.7, 86.1),
        "persona": (92.5, 86.5, 85.4),
        "main_effects": (92.5, 86.5, 85.4),
        "no_effect": (94.0, 93.4, 93.8),
        "mode": (81.9, 79.0, 80.0),
    }.items():
        score = 100 * predictions_table(cells, given[name])["score"]
        blocks = (~question & country, question & ~country, question & country)
        assert tuple(round(float(score[block].mean()), 1) for block in blocks) == wanted, name
