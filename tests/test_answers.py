"""Answers without a model, held against the survey's own tables; the same cells asked otherwise."""

import json
import runpy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_train import ROOT

from ace_jax import evaluate
from ace_jax.errors import InputError
from ace_jax.evaluation.answers import (
    REFERENCES,
    UNALTERED,
    Answers,
    audit_table,
    reference_answers,
)
from ace_jax.survey.dataset import read_dataset, select_questions
from ace_jax.survey.split import Split

GSS = read_dataset("gss2018")
EVERYTHING = np.ones(len(GSS.cells), bool)
TWO = select_questions(GSS, ("natspac", "abany"))
CELLS = TWO.cells[TWO.cells["granularity"] == 4].reset_index(drop=True)


def config_for(reference, **changes):
    """A model that is not there: none may be opened."""
    config = runpy.run_path(str(ROOT / "configs/evaluate.py"))["get_config"]("methods:base")
    settings = {"reference": reference, "model.path": "/no/where"}
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(settings | changed)
    return config


def changed(dataset, rows):
    """The dataset with other answers in some cells."""
    p = [np.roll(p, 1) if row else p for p, row in zip(dataset.cells["p"], rows, strict=True)]
    return replace(dataset, cells=dataset.cells.assign(p=p))


def answers(name, dataset, seen):
    return reference_answers(name, dataset.cells, dataset, seen)


def test_uniform_answers():
    given = answers("uniform", GSS, EVERYTHING)
    for p, p_data in zip(given.p, GSS.cells["p"], strict=True):
        np.testing.assert_array_equal(p, np.full(len(p_data), 1 / len(p_data)))
    assert (given.option_mass == 1).all()


@pytest.mark.parametrize("attribute", ["gender", "residence"])
def test_no_effect_is_what_the_country_answers(attribute):
    """Everyone has a gender and a residence, so either one's two cells are the whole country."""
    given = pd.Series(answers("no_effect", GSS, EVERYTHING).p, GSS.cells.index)
    of = GSS.cells[(GSS.cells["granularity"] == 1) & GSS.cells[attribute].notna()]
    for question, cells in of.groupby("question_id"):
        whole = np.average(np.stack(list(cells["p"])), axis=0, weights=cells["n"])
        for p in given[GSS.cells["question_id"] == question]:
            np.testing.assert_allclose(p, whole, atol=1e-12)


def test_no_effect_differs_by_country_and_takes_the_finest_cells_there_are():
    usa = select_questions(GSS, ("natspac",)).cells
    mexico = usa[usa["granularity"] == 2].assign(country="MEX")
    mexico["p"] = [p[::-1] for p in mexico["p"]]
    both = replace(GSS, cells=pd.concat([usa, mexico], ignore_index=True))
    given = answers("no_effect", both, np.ones(len(both.cells), bool)).p
    np.testing.assert_allclose(given[-1], given[0][::-1], atol=1e-12)


def test_the_mean_is_that_of_the_other_questions_on_the_same_scale():
    held_out = Split("question:0.3").held_out(GSS).cells(GSS)
    given = answers("mean", GSS, ~held_out).p
    country = answers("no_effect", GSS, EVERYTHING).p
    first = GSS.cells.assign(country_p=country)[~held_out].drop_duplicates("question_id")
    for size in set(map(len, GSS.cells["p"])):
        expected = np.mean([p for p in first["country_p"] if len(p) == size], axis=0)
        same = [p for p in given if len(p) == size]
        np.testing.assert_allclose(same, [expected] * len(same), atol=1e-12)


@pytest.mark.parametrize("holdout", ["question:0.3", "persona:paper"])
def test_the_mean_sees_nothing_that_training_may_not_see(holdout):
    held_out = Split(holdout).held_out(GSS).cells(GSS)
    # Coarser cells, too, are made of respondents whose personas are held out.
    coarse = (GSS.cells["granularity"] < 4).to_numpy()
    before = answers("mean", GSS, ~held_out).p
    unseen = answers("mean", changed(GSS, held_out | coarse), ~held_out).p
    for one, other in zip(before, unseen, strict=True):
        np.testing.assert_array_equal(one, other)
    seen = answers("mean", changed(GSS, ~held_out), ~held_out).p
    assert not any(np.array_equal(*pair) for pair in zip(before, seen, strict=True))


def test_a_scale_that_training_does_not_have_is_answered_uniformly(tmp_path):
    """One of the two questions is held out, and the other has another number of options."""
    sizes = GSS.questions.set_index("question_id")["option_codes"].map(len)
    two = tuple(sizes.drop_duplicates().index[:2])
    dataset = select_questions(GSS, two)
    held_out = Split("question:0.5").held_out(dataset).cells(dataset)
    (unseen,) = dataset.cells.loc[held_out, "question_id"].unique()
    said = f"uniform where training has no scale of that size: {unseen}"
    assert answers("mean", dataset, ~held_out).marks == (said,)
    assert answers("uniform", dataset, ~held_out).marks == ()
    evaluate.main(config_for("mean", data__questions=two, data__holdout="question:0.5"), tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["marks"] == [said]
    for p in pd.read_parquet(tmp_path / "predictions.parquet")["p_model"]:
        np.testing.assert_array_equal(p, np.full(sizes[unseen], 1 / sizes[unseen]))


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_writes_what_a_model_writes(name, tmp_path):
    evaluate.main(config_for(name), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "answers.csv",
        "national.csv",
        "predictions.parquet",
        "questions.parquet",
        "scores.csv",
        "scores.png",
        "run.json",
        "lock",
    }
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["reference"], run["model"], run["adapter"], run["prompt"]) == (name, *[None] * 3)
    assert run["attributes"].keys() == {attribute.name for attribute in GSS.attributes}
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    assert (predictions["option_mass"] == 1).all()
    assert predictions["p_model"].map(np.sum).to_numpy() == pytest.approx(1)
    assert predictions["score"].between(0, 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "median"}, r"reference: 'median' is not one of uniform, mean, no_effect"),
        ({"audit": True}, r"audit, adapter\.path: need a model; leave both out"),
        ({"adapter__path": "/some"}, r"/some: not a PEFT adapter, "),
    ],
)
def test_what_a_reference_cannot_do_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        evaluate.main(config_for(**{"reference": "uniform"} | changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_says_what_moved():
    """Unaltered answers are the survey's; altered ones move all mass by a known distance."""
    cells = pd.DataFrame(
        {
            "country": ["USA", "USA", "USA", "MEX"],
            "question_id": ["a", "b", "a", "a"],
            "granularity": [1, 1, 2, 1],
            "p": [np.eye(3)[0]] * 4,
        }
    )
    plain = Answers([np.eye(3)[0]] * 4, np.full(4, 0.5))
    other = Answers([np.eye(3)[k] for k in (0, 1, 2, 2)], np.array([0.1, 0.3, 0.8, 0.6]))
    table = audit_table(cells, {UNALTERED: plain, "other": other})
    assert list(table.columns) == [
        "variant",
        "granularity",
        "n_cells",
        "n_questions",
        "score",
        "ci_low",
        "ci_high",
        "moved",
        "option_mass",
    ]
    plain, of_other = (table[table["variant"] == name] for name in (UNALTERED, "other"))
    assert plain["score"].tolist() == [1, 1]
    assert plain["moved"].tolist() == [0, 0]
    # G = 1: the USA's cells moved by 0 and 1/2, Mexico's by 1; countries count alike.
    assert of_other["granularity"].tolist() == [1, 2]
    assert of_other["n_cells"].tolist() == [3, 1]
    assert of_other["moved"].tolist() == pytest.approx([(0.25 + 1) / 2, 1])
    assert of_other["score"].tolist() == pytest.approx([1 - 0.625, 0])
    assert of_other["option_mass"].tolist() == pytest.approx([(0.2 + 0.6) / 2, 0.8])
