"""Several surveys as one: what they share, and what cannot be joined."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from ace_jax.errors import InputError
from ace_jax.evaluation.record import NOT_AT_HAND, evaluation_set
from ace_jax.experiment import Experiment, Model, Prompt, Survey
from ace_jax.model.formats import peft
from ace_jax.prompts.encode import PromptStyle
from ace_jax.recipe import Recipe, load_config
from ace_jax.survey.dataset import Dataset, read_dataset, select_questions, write_dataset
from ace_jax.survey.readers.sources import load_survey, paths_of
from ace_jax.survey.split import HeldOut, Split
from ace_jax.training.data import training_data

GSS = select_questions(read_dataset("gss2018"), ("natspac", "abany"))
BOTH = "eqls2011,gss2018"


def without(dataset: Dataset, name: str) -> Dataset:
    """A survey that lacks an attribute."""
    cells = dataset.cells[dataset.cells[name].isna()].drop(columns=name).reset_index(drop=True)
    levels = {one.name: list(one.levels) for one in dataset.attributes if one.name != name}
    return Dataset(dataset.questions, cells, dataset.manifest | {"attributes": levels})


@pytest.fixture
def written(tmp_path):
    def write(**datasets):
        for name, dataset in datasets.items():
            write_dataset(dataset, tmp_path / name)
        return [str(tmp_path / name) for name in datasets]

    return write


def test_two_surveys_are_one_with_the_cells_of_both():
    one, two = map(read_dataset, paths_of(BOTH))
    joined = load_survey(BOTH)
    assert joined.name == "eqls2011+gss2018"
    assert joined.attributes == one.attributes
    assert len(joined.questions) == len(one.questions) + len(two.questions)
    assert joined.cells["source"].value_counts().to_dict() == {
        "eqls2011": len(one.cells),
        "gss2018": len(two.cells),
    }
    assert load_survey(["eqls2011", "gss2018"]).digest == joined.digest
    record = Survey.of(joined, joined.path, ())
    assert (record.name, record.path) == ("eqls2011+gss2018", BOTH)
    assert record.reopened().digest == joined.digest


def test_what_only_one_survey_asks_of_people_is_left_out(written):
    """Cells that name no other attribute stay; they count every respondent already."""
    paths = written(ours=without(GSS, "residence"))
    joined = load_survey(["eqls2011", *paths])
    assert [one.name for one in joined.attributes] == ["gender", "education", "marital_status"]
    whole = read_dataset("eqls2011").cells
    kept = joined.cells[joined.cells["source"] == "eqls2011"]
    assert len(kept) == whole["residence"].isna().sum()
    assert "residence" not in joined.cells
    assert joined.cells["granularity"].max() == 3
    np.testing.assert_array_equal(kept["p"].iloc[7], whole[whole["residence"].isna()]["p"].iloc[7])


def test_an_id_that_two_surveys_have_is_prefixed_in_both(written):
    questions = GSS.questions.replace({"question_id": {"abany": "trust_people"}})
    cells = GSS.cells.replace({"question_id": {"abany": "trust_people"}})
    joined = load_survey(["eqls2011", *written(ours=Dataset(questions, cells, GSS.manifest))])
    ids = set(joined.questions["question_id"])
    assert {"eqls2011.trust_people", "ours.trust_people", "natspac"} <= ids
    assert "trust_people" not in ids
    assert set(joined.cells["question_id"]) == ids


def test_shrunk_answers_of_one_survey_are_learnt_beside_the_others(written):
    shrunk = replace(GSS, cells=GSS.cells.assign(p_shrunk=GSS.cells["p"].map(lambda p: p[::-1])))
    joined = load_survey(["eqls2011", *written(ours=shrunk)])
    ours = joined.cells["source"] == "ours"
    learnt = joined.learnt[ours].iloc[3], joined.learnt[~ours].iloc[3]
    raw = joined.cells.loc[ours, "p"].iloc[3], joined.cells.loc[~ours, "p"].iloc[3]
    np.testing.assert_array_equal(learnt[0], raw[0][::-1])
    np.testing.assert_array_equal(learnt[1], raw[1])


def other_levels():
    cells = GSS.cells.replace({"gender": {"Male": "Man"}})
    levels = {one.name: list(one.levels) for one in GSS.attributes} | {"gender": ["Man", "Female"]}
    return Dataset(GSS.questions, cells, GSS.manifest | {"attributes": levels})


def other_attributes():
    levels = {one.name: list(one.levels) for one in GSS.attributes}
    names = {name: f"our_{name}" for name in levels}
    attributes = {names[name]: its for name, its in levels.items()}
    cells = GSS.cells.rename(columns=names)
    return Dataset(GSS.questions, cells, GSS.manifest | {"attributes": attributes})


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (other_levels, "gender has the levels Male, Female in eqls2011 and Man, Female in .*ours"),
        (other_attributes, "have no attribute in common"),
    ],
)
def test_surveys_that_do_not_fit_are_refused(other, line, written):
    with pytest.raises(InputError, match=line):
        load_survey(["eqls2011", *written(ours=other())])


def test_a_survey_that_is_named_twice_is_refused(written):
    (path,) = written(ours=GSS)
    with pytest.raises(InputError, match="is named twice"):
        load_survey([path, f"{path}/"])
    copies = written(one=GSS, two=GSS)
    with pytest.raises(InputError, match=r"two holds the same survey as .*one"):
        load_survey(copies)


def test_surveys_of_one_name_are_told_apart(written, tmp_path):
    """`prepare --sample` calls the parts of every survey sample and rest."""
    parts = {}
    for name, dataset in (("x", read_dataset("eqls2011")), ("y", GSS)):
        ids = {"abany": "trust_people"}
        questions, cells = (
            of.replace({"question_id": ids}) for of in (dataset.questions, dataset.cells)
        )
        parts[f"{name}/sample"] = Dataset(questions, cells, dataset.manifest)
    joined = load_survey(written(**parts))
    assert not joined.questions["question_id"].duplicated().any()
    assert set(joined.questions["source"]) == {"x.sample", "y.sample"}
    assert {"x.sample.trust_people", "y.sample.trust_people"} <= set(joined.cells["question_id"])
    held_out = Split("survey:y.sample").held_out(joined)
    assert held_out.questions == ("natspac", "y.sample.trust_people")


def test_a_survey_whose_cells_all_name_what_another_lacks_is_refused(written):
    finest = replace(GSS, cells=GSS.cells.query("granularity == 4").reset_index(drop=True))
    paths = written(finest=finest, less=without(read_dataset("eqls2011"), "residence"))
    with pytest.raises(InputError, match=r"all cells of .*finest name residence"):
        load_survey(paths)


def test_words_in_other_languages_stay(written):
    rows = GSS.questions.to_dict("records")
    said = {row["question_id"]: {"text": "Warum?", "options": row["option_labels"]} for row in rows}
    levels = {one.name: list(one.levels) for one in GSS.attributes}
    german = {"languages": {"de": {"questions": said, "attributes": levels}}}
    joined = load_survey(["eqls2011", *written(ours=replace(GSS, manifest=GSS.manifest | german))])
    assert set(joined.manifest["languages"]["de"]["questions"]) == {"natspac", "abany"}


@pytest.mark.parametrize("path", ["", ",", []])
def test_no_survey_is_refused(path):
    with pytest.raises(InputError, match=r"data\.path: names no survey"):
        paths_of(path)


def test_a_directory_with_a_comma_in_its_name_is_one_survey(written):
    (path,) = written(**{"ours, 2018": GSS})
    assert paths_of(path) == (path,)
    assert load_survey(path).name == "gss2018"


@pytest.mark.parametrize("path", [BOTH, ("eqls2011", "gss2018")])
def test_training_learns_from_both_and_records_them(path):
    settings = load_config("quickstart").to_dict()
    settings["data"] |= {"path": path, "holdout": "question:abany,country:DEU"}
    data = training_data(ConfigDict(settings))
    assert {"natspac", "trust_people"} <= set(data.train.pairs["question_id"])
    assert {"USA", "FRA"} <= set(data.train.pairs["country"])
    assert data.survey.path == BOTH
    assert data.held_out.questions == ("abany",)
    assert data.held_out.countries == ("DEU",)
    assert pd.Series(data.train.pairs["weight"]).eq(1).all()  # every cell counts alike


def test_a_survey_can_be_held_out():
    joined = load_survey(BOTH)
    held_out = Split("survey:gss2018,country:DEU").held_out(joined)
    of_gss = joined.questions.loc[joined.questions["source"] == "gss2018", "question_id"]
    assert held_out.questions == tuple(sorted(of_gss))
    assert held_out.countries == ("DEU",)
    with pytest.raises(InputError, match=r"no 'gss'; the nearest survey of 2 is gss2018"):
        Split("survey:gss").held_out(joined)


def test_of_another_survey_training_has_seen_only_what_its_own_has(written):
    """EQLS has no question of the GSS, nor the USA; a part of the GSS has all of its ids."""
    trained = load_survey("eqls2011")
    ids = {"question_id": {"abany": "trust_people"}}
    tables = (of.replace(ids) for of in (GSS.questions, GSS.cells))
    clashing = written(ours=Dataset(*tables, GSS.manifest))
    config = load_config("quickstart")
    record = Experiment(
        model=Model("tiny", "", "float32"),
        survey=Survey.of(trained, "eqls2011", ()),
        split=Split("country:DEU"),
        held_out=HeldOut(countries=("DEU",)),
        prompt=Prompt.of(PromptStyle.of("question_first")),
        recipe=Recipe.of(config, peft.adapter_config(config.lora)),
        seed=0,
        versions={},
    )
    scored = evaluation_set(load_survey("gss2018"), "all", record, split=Split())
    assert scored.held_out == HeldOut()
    assert set(scored.unseen.questions) == set(scored.dataset.questions["question_id"])
    assert scored.unseen.countries == ("USA",)
    assert not scored.seen.any()
    # The words tell, not the ids: another question of the same id is unseen, too.
    other, whole = GSS.questions.assign(text="Another question?"), read_dataset("gss2018")
    foreign = evaluation_set(
        replace(GSS, questions=other),
        "all",
        replace(record, survey=Survey.of(whole, "gss2018", ("natspac", "abany"))),
        split=Split(),
    )
    assert set(foreign.unseen.questions) == {"natspac", "abany"}
    # Of the same survey, questions that training did not use are unseen.
    one = replace(record, survey=Survey.of(whole, "gss2018", ("natspac",)))
    rest = evaluation_set(GSS, "all", one, split=Split(), questions=("natspac", "abany"))
    assert rest.unseen.questions == ("abany",)
    # What was held out under a joined survey's id is unseen under its own.
    both = load_survey(["eqls2011", *clashing])
    held = HeldOut(questions=("eqls2011.trust_people",))
    told = replace(record, survey=Survey.of(both, both.path, ()), held_out=held)
    alone = evaluation_set(load_survey("eqls2011"), "all", told, split=Split())
    assert alone.unseen.questions == ("trust_people",)
    # Where training's survey is gone, a mark says so.
    gone = replace(record, survey=replace(record.survey, path="gone"))
    lost = evaluation_set(load_survey("gss2018"), "all", gone, split=Split())
    marks = lost.check(gone, record.model, record.prompt, ("survey", "split"))
    assert NOT_AT_HAND in marks
    same = replace(record, survey=Survey.of(read_dataset("gss2018"), "gss2018", ()))
    part = evaluation_set(GSS, "all", same, split=Split("question:abany"))
    assert part.unseen == part.held_out == HeldOut(questions=("abany",))
