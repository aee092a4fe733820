"""The first lines of a report: what they say of models whose truth is known."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from survey_tables import answered, persona_table

from ace_jax.evaluation.slopes import ALIGNED, NONE
from ace_jax.report.compare import compare
from ace_jax.report.findings import headline
from ace_jax.report.runs import RECORD
from ace_jax.survey.personas import ATTRIBUTES

K, COUNTRIES, QUESTIONS = 4, ("DEU", "FRA", "ITA", "POL"), tuple(f"q{i}" for i in range(16))


@pytest.fixture(scope="module")
def survey():
    """Cells of 400 respondents whose answers depend on question, country and each attribute."""
    draws = np.random.default_rng(0)
    table = persona_table(COUNTRIES, QUESTIONS, granularities=(1, 4), n=400)
    logits = np.zeros((len(table), K))
    for name in (None, "country", *(attribute.name for attribute in ATTRIBUTES)):
        code = table.groupby(["question_id", *([name] if name else [])], dropna=False).ngroup()
        logits += 0.5 * draws.standard_normal((code.max() + 1, K))[code]
    truth = np.exp(logits)
    return table, truth / truth.sum(axis=1, keepdims=True)


def report_on(survey, held_out=None, **models):
    table, truth = survey
    questions = pd.DataFrame({"question_id": QUESTIONS, "topic": "Trust", "text": "How much?"})
    questions["option_labels"] = [["a", "b", "c", "d"]] * len(QUESTIONS)
    levels = {attribute.name: list(attribute.levels) for attribute in ATTRIBUTES}
    run = {"seed": 0, "attributes": levels, "data": {"min_n": 10}, "model": {"name": "tiny"}}
    run |= {"held_out": held_out} if held_out else {}
    runs = {}
    for name, model in models.items():
        of = answered(table.assign(source="made up"), truth, model, np.random.default_rng(1))
        of.attrs[RECORD] = {"run": run, "questions": questions.to_dict("list")}
        runs[name] = of
    return compare(runs)


@pytest.fixture(scope="module")
def alike(survey):
    """A model that answers every persona of every country with the question's mean."""
    table, truth = survey
    question = pd.factorize(table["question_id"])[0]
    means = np.stack([truth[question == q].mean(axis=0) for q in range(len(QUESTIONS))])
    return report_on(survey, model=means[question])


@pytest.fixture(scope="module")
def perfect(survey):
    return report_on(survey, model=survey[1])


def test_a_model_that_answers_all_alike_has_learnt_no_effect(alike):
    _, effects, countries, trusted = headline(alike)
    assert effects.startswith(f"Does it move as they move? {NONE.capitalize()}, slope 0.00")
    assert countries.startswith(f"Does it tell countries apart? {NONE.capitalize()}, slope 0.00")
    assert "gender, education, residence, marital status, country" in trusted
    assert (alike.finest("slopes")["verdict"] == NONE).all()


def test_a_model_that_answers_as_the_survey_does_is_aligned(perfect):
    _, effects, countries, trusted = headline(perfect)
    for sentence in (effects, countries):
        assert f"? {ALIGNED.capitalize()}, slope " in sentence
        assert float(re.search(r"slope (\S+)", sentence)[1]) == pytest.approx(1, abs=0.05)
    assert "differences by" not in trusted
    assert (perfect.finest("slopes")["verdict"] == ALIGNED).all()


@pytest.mark.parametrize("first", [True, False])
def test_it_is_about_the_best_method_wherever_it_stands(survey, first):
    models = {"true": survey[1], "flat": np.full_like(survey[1], 1 / K)}
    said = headline(report_on(survey, **dict(sorted(models.items(), reverse=first))))
    assert "true has" in said[0] and ALIGNED.capitalize() in said[1]


def test_the_page_opens_with_it_and_so_does_the_text(alike, tmp_path):
    alike.save_html(tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    held = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert held["said"] == headline(alike)
    text = str(alike)
    assert text.index(headline(alike)[1]) < text.index("Alignment score (0-100")


def test_a_single_question_is_not_clear(survey):
    table, truth = survey
    one = (table["question_id"] == "q0").to_numpy()
    short = table[one].reset_index(drop=True), truth[one]
    _, effects, countries, _ = headline(report_on(short, model=truth[one]))
    assert "Not clear" in effects and "Not clear" in countries


@pytest.mark.parametrize(("part", "best"), [("held_out", "nearest"), ("train", "persona")])
def test_tables_that_repeat_the_cells_scored_are_no_rivals(survey, tmp_path, part, best):
    """On cells that training saw, `nearest` is the survey's own answer."""
    table, truth = survey
    model = np.full_like(truth, 0.25)
    predictions = answered(table.assign(source="made up"), truth, model, np.random.default_rng(1))
    out = tmp_path / "out"
    out.mkdir()
    predictions.to_parquet(out / "predictions.parquet")
    answers = {"nearest": predictions["p_data"], "persona": list(truth)}
    rows = [
        pd.DataFrame({"reference": name, "cell": range(len(table)), "p": list(p)})
        for name, p in answers.items()
    ]
    pd.concat(rows).to_parquet(out / "references.parquet")
    questions = pd.DataFrame({"question_id": QUESTIONS, "topic": "Trust", "text": "How much?"})
    questions["option_labels"] = [["a", "b", "c", "d"]] * len(QUESTIONS)
    questions.to_parquet(out / "questions.parquet")
    levels = {attribute.name: list(attribute.levels) for attribute in ATTRIBUTES}
    run = {"seed": 0, "attributes": levels, "data": {"min_n": 10, "split": part}, "model": {}}
    (out / "run.json").write_text(json.dumps(run))
    assert f"the best table ({best})" in headline(compare({"model": out}))[0]


def test_what_was_seen_and_what_was_not_are_apart(survey):
    """A model that knows two questions well and the others not must not pass for a good one."""
    table, truth = survey
    new = table["question_id"].isin(QUESTIONS[2:]).to_numpy()
    model = np.where(new[:, None], 1 / K, truth)
    held_out = {"questions": list(QUESTIONS[2:]), "countries": [], "personas": []}
    score, effects, _, _ = headline(report_on(survey, held_out, model=model))
    found = re.findall(r"model has ([\d.]+)", score)
    assert score.index("Seen: ") < score.index("unseen questions: ")
    assert float(found[0]) > 97 > float(found[1])
    assert f"unseen questions: {NONE}, slope 0.00" in effects
    assert f"Seen: {ALIGNED}, slope" in effects
