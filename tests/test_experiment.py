"""The record of an experiment: an adapter alone is enough, and nothing contradicts it unseen."""

import json
import runpy
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from test_train import ROOT, quick_commands, small_config

from ace_jax import evaluate, train
from ace_jax.errors import InputError
from ace_jax.experiment import Experiment, adapter_experiment, read_experiment
from ace_jax.language_model import LanguageModel
from ace_jax.prompts.encode import Question
from ace_jax.recipe import load_config
from ace_jax.survey.dataset import read_dataset, write_dataset
from ace_jax.survey.readers.sources import load_survey
from ace_jax.survey.split import Split
from ace_jax.training.data import training_data
from ace_jax.training.run import fine_tune

QUESTIONS = ("natspac", "natenvir", "natheal", "abany")


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A DATASET of its own."""
    path = tmp_path_factory.mktemp("survey") / "gss"
    write_dataset(read_dataset("gss2018"), path)
    return path


@pytest.fixture(scope="module")
def run(tiny_checkpoint, survey, tmp_path_factory):
    """A run of three steps on three of four questions."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = small_config(
        tiny_checkpoint,
        data__path=str(survey),
        data__questions=QUESTIONS,
        data__holdout="question:0.25",
        max_steps=3,
    )
    train.main(config, workdir)
    return workdir


def config_for(run, experiment="record", **changes):
    config = runpy.run_path(str(ROOT / "configs/evaluate.py"))["get_config"](experiment)
    own = {"adapter.path": str(run / "adapter"), "batch.row_lengths": (512,)}
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(own | changed)
    return config


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """The adapter, evaluated from its record alone."""
    workdir = tmp_path_factory.mktemp("alone") / "out"
    evaluate.main(config_for(run), workdir)
    return workdir


def test_a_record_is_read_as_it_was_written(run):
    record = read_experiment(run / "experiment.json")
    assert adapter_experiment(run / "adapter") == record
    assert Experiment.from_json(record.to_json(), "here") == record
    assert record.differences(record) == []
    assert len(record.held_out.questions) == 1
    assert record.survey.questions == QUESTIONS
    assert record.split == Split("question:0.25", 0)
    moved = replace(record, survey=replace(record.survey, path="elsewhere"))
    assert record.differences(moved) == []
    assert record.differences(replace(record, seed=1)) == ["seed"]


@pytest.mark.parametrize("damage", ["{}", "[1]", '{"model": 3}', "not json"])
def test_a_damaged_record_is_one_line(run, tmp_path, damage):
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    (adapter / "ace_experiment.json").write_text(damage)
    with pytest.raises(InputError, match=r"ace_experiment\.json: not "):
        evaluate.main(config_for(run, adapter__path=str(adapter)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_adapter_alone_is_the_whole_config_to_the_last_digit(
    run, alone, tiny_checkpoint, survey, tmp_path
):
    whole = config_for(
        run,
        "quickstart",
        model__path=str(tiny_checkpoint),
        data__path=str(survey),
        data__questions=QUESTIONS,
        data__holdout="question:0.25",
        data__min_n=136,
    )
    evaluate.main(whole, tmp_path)
    for name in ("predictions.parquet", "answers.csv", "scores.csv", "run.json"):
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name
    held_out = read_experiment(run / "experiment.json").held_out.questions
    assert set(pd.read_parquet(alone / "predictions.parquet")["question_id"]) == set(held_out)


@pytest.fixture(scope="module")
def contradictions(survey, checkpoint_copy, tmp_path_factory):
    """What could be said otherwise: config fields, the record's field, and both sides."""
    other = tmp_path_factory.mktemp("other") / "survey"
    dataset = read_dataset(survey)
    cells = dataset.cells.assign(n=dataset.cells["n"] + 1)
    write_dataset(replace(dataset, cells=cells), other)
    return {
        "seed": ({"seed": 5}, "split", "by seed 0 .* by seed 5"),
        "hold-out": ({"data.holdout": "question:0.5"}, "split", r"question:0\.25 .* question:0\.5"),
        "survey": ({"data.path": str(other)}, "survey", r"gss \(digest .* survey \(digest"),
        "question list": (
            {"data.questions": QUESTIONS[:3]},
            "questions",
            "abany, this .* natheal",
        ),
        "base": ({"model.path": str(checkpoint_copy)}, "model", r"\(fingerprint .* \(fingerprint"),
        "template": (
            {"prompt.template": "persona_first"},
            "prompt",
            "question_first.* persona_first",
        ),
    }


@pytest.fixture(scope="module")
def checkpoint_copy(tiny_checkpoint, tmp_path_factory):
    """The same model with other weights."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    copy = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("models") / "copy")
    (file,) = copy.glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"] = weights["model.norm.weight"] + np.float32(0.5)
    save_file(weights, file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    "what", ["seed", "hold-out", "survey", "question list", "base", "template"]
)
def test_a_contradiction_is_refused_with_both_sides_and_let_through_on_request(
    run, contradictions, what, tmp_path
):
    fields, named, sides = contradictions[what]
    config = config_for(run, **{name.replace(".", "__"): value for name, value in fields.items()})
    with pytest.raises(InputError, match=f"{named}: .*{sides}.*--allow-mismatch {named}") as error:
        evaluate.main(config, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    allowed = (named, "split") if what == "question list" else (named,)
    evaluate.main(config, tmp_path / "out", allowed)
    run_json = json.loads((tmp_path / "out" / "run.json").read_text())
    assert any(f"mismatch allowed: {named}: " in mark for mark in run_json["marks"])


def test_an_unknown_field_cannot_be_allowed(run, tmp_path):
    with pytest.raises(InputError, match="--allow-mismatch seed: is not one of model, survey"):
        evaluate.main(config_for(run, data__holdout="question:0.5"), tmp_path / "out", ("seed",))


def test_a_renamed_and_prepared_again_dataset_is_the_same(run, alone, survey, tmp_path):
    dataset = read_dataset(survey)
    cells = dataset.cells.sample(frac=1, random_state=0, ignore_index=True)
    write_dataset(replace(dataset, cells=cells), tmp_path / "renamed")
    evaluate.main(config_for(run, data__path=str(tmp_path / "renamed")), tmp_path / "out")
    scores = [pd.read_csv(out / "scores.csv") for out in (alone, tmp_path / "out")]
    pd.testing.assert_frame_equal(*scores)


def test_a_foreign_adapter_must_be_told_what_to_score_and_is_marked(run, survey, tmp_path):
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    (adapter / "ace_experiment.json").unlink()
    config = config_for(run, adapter__path=str(adapter))
    with pytest.raises(InputError, match=r"data\.path: is not given, and no adapter's record"):
        evaluate.main(config, tmp_path / "out")
    model = LanguageModel.from_pretrained(adapter)
    with pytest.raises(InputError, match="no hold-out is known without an adapter's record"):
        model.score(read_dataset(survey))
    predictions = model.score(
        read_dataset(survey), holdout=Split("question:natspac"), split="held_out"
    )
    marks = predictions.attrs["ace_jax"]["run"]["marks"]
    assert marks == ["split not recorded: the adapter does not say what it was trained on"]


def test_scoring_from_python_is_what_evaluate_writes(run, alone, survey):
    tuned = LanguageModel.from_pretrained(run / "adapter")
    predictions = tuned.score(read_dataset(survey))
    written = pd.read_parquet(alone / "predictions.parquet")
    pd.testing.assert_frame_equal(predictions, written, check_dtype=False)
    assert predictions.attrs["ace_jax"]["run"]["held_out"]["questions"]


def test_a_survey_question_has_the_answer_that_evaluate_gives(run, alone, survey):
    tuned = LanguageModel.from_pretrained(run / "adapter")
    written = pd.read_parquet(alone / "predictions.parquet")
    cell = written[written["granularity"] == 4].iloc[5]
    row = read_dataset(survey).questions.set_index("question_id").loc[cell["question_id"]]
    persona = {"country": cell["country"]} | {
        name: cell[name] for name in tuned.experiment.survey.attributes
    }
    question = Question(row["text"], tuple(row["option_labels"]), cell["question_id"])
    answer = tuned.answer([question], [persona])
    assert list(answer) == [
        "country", "gender", "education", "residence", "marital_status",
        "question_id", "option", "p", "option_mass",
    ]  # fmt: skip
    assert answer["p"].to_numpy() == pytest.approx(cell["p_model"], abs=1e-6)
    assert answer["option"].tolist() == list(row["option_labels"])

    effects = tuned.effects([question], [persona], "gender")
    other = tuned.answer([question], [persona | {"gender": "Male"}])["p"]
    female = tuned.answer([question], [persona | {"gender": "Female"}])["p"]
    assert effects["from_level"].unique().tolist() == ["Male"]
    moved = female.to_numpy() - other.to_numpy()
    assert effects["effect"].to_numpy() == pytest.approx(moved, abs=1e-6)
    assert effects["cumulative_effect"].iloc[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("persona", "message"),
    [
        ({"gender": "Male"}, "has no country"),
        ({"country": "USS"}, "country: 'USS' is not known; did you mean .*USA"),
        ({"country": "USA", "sex": "Male"}, "attribute: 'sex' is not known; did you mean"),
        ({"country": "USA", "gender": "Man"}, "level of gender: 'Man' is not known; .* Male"),
    ],
)
def test_a_persona_that_cannot_be_is_refused(run, persona, message):
    tuned = LanguageModel.from_pretrained(run / "adapter")
    with pytest.raises(InputError, match=message):
        tuned.answer([Question("Well?", ("Yes", "No"))], [persona])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", ("Yes", "No"), "has no text"),
        ("Well?", ("Yes",), "two options or more"),
        ("Well?", ("Yes", " "), "none of them empty"),
        ("Well?", ("Yes", "Yes"), "gives an option twice"),
    ],
)
def test_a_question_that_cannot_be_is_refused(text, options, message):
    with pytest.raises(InputError, match=message):
        Question(text, options)


def test_fine_tuning_from_python_uses_the_models_own_prompt(tiny_checkpoint, survey, tmp_path):
    model = LanguageModel.from_pretrained(tiny_checkpoint, prompt="persona_first")
    data = load_survey(survey)
    fields = {
        "data.questions": QUESTIONS,
        "data.min_n": 140,
        "lora.rank": 2,
        "batch.unit": "pair",
        "batch.row_lengths": (512,),
        "optimizer.learning_rate": 1e-2,
    }
    run = fine_tune(
        model, data, split=Split.questions(["natspac"]), workdir=tmp_path, seed=3, max_steps=1,
        changes=fields,
    )  # fmt: skip
    record = run.experiment
    assert (record.prompt.template, record.seed) == ("persona_first", 3)
    assert record.held_out.questions == ("natspac",)
    assert record.survey.path == str(survey)
    assert len(run.metrics) == 1
    config = load_config("methods:joint").unlock()
    config.update_from_flattened_dict(fields | {"data.path": str(survey)})
    config.prompt.template = "persona_first"
    seen = training_data(config, Split.questions(["natspac"]))
    assert record.survey.examples == seen.survey.examples
    tuned = LanguageModel.from_pretrained(run.adapter)
    assert tuned.style.template.name == "persona_first"
    with pytest.raises(InputError, match="takes a base model"):
        fine_tune(tuned, data, split=Split(), workdir=tmp_path / "other")
    with pytest.raises(InputError, match="there is no such field"):
        fine_tune(model, data, split=Split(), workdir=tmp_path / "other", changes={"lora.rnk": 1})
    with pytest.raises(InputError, match="has no method 'sft'"):
        fine_tune(model, data, split=Split(), workdir=tmp_path / "other", recipe="sft")
