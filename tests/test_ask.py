"""`ask`: new questions of personas, from the shell and from Python."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_train import quick_commands, small_config

from ace_jax import ask, evaluate, train
from ace_jax.asking import open_models
from ace_jax.errors import InputError
from ace_jax.evaluation.answers import Answers
from ace_jax.evaluation.asked import Asked, answers_table, shifts_table
from ace_jax.language_model import LanguageModel
from ace_jax.prompts.encode import Question
from ace_jax.recipe import load_config
from ace_jax.survey.dataset import read_dataset

PETS = Question("Do you like cats?", ("Yes", "It depends", "No"), id="cats")
WHO = [{"country": "USA", "gender": "Male"}, {"country": "USA", "gender": "Female"}]


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint, tmp_path_factory):
    """An adapter that has learnt from some questions of GSS 2018 in both orders."""
    workdir = tmp_path_factory.mktemp("run")
    changes = {"max_steps": 3, "prompt__option_order": "both", "data__holdout": "question:0.34"}
    train.main(small_config(tiny_checkpoint, **changes), workdir)
    return workdir / "adapter"


@pytest.fixture(scope="module")
def tuned(adapter, mesh):
    return LanguageModel.from_pretrained(adapter, mesh=mesh)


@pytest.fixture(scope="module")
def scored(tuned):
    return tuned.score(read_dataset("gss2018"))


def run(*arguments):
    ask.main(list(map(str, arguments)))


def answered(out):
    return pd.read_csv(out / "answers.csv")


@pytest.fixture(scope="module")
def out(adapter, tiny_checkpoint, tmp_path_factory):
    """Everything asked at once: two models, all personas, a country's answer."""
    directory = tmp_path_factory.mktemp("asked")
    (directory / "margins.csv").write_text(
        "country,gender,education,residence,marital_status,count\n"
        "USA,Male,,,,30\nUSA,Female,,,,70\n"
        "USA,,College Educated,,,1\nUSA,,Not College Educated,,,3\n"
        "USA,,,Urban,,1\nUSA,,,Rural,,1\nUSA,,,,Married,1\nUSA,,,,Not Married,0\n"
    )
    run("--adapter", adapter, "--model", tiny_checkpoint, "--question", PETS.text, "--option",
        *PETS.options, "--country", "USA", "--all-personas", "--poststratify",
        directory / "margins.csv", "--output", directory / "out")  # fmt: skip
    return directory / "out"


def test_the_command_and_python_give_the_same_bits(out, tuned, tiny_checkpoint, mesh):
    table = answered(out)
    base = LanguageModel.from_pretrained(tiny_checkpoint, prompt=tuned.style, mesh=mesh)
    names = ["country", *tuned.experiment.survey.attributes]
    of_adapter = table[table["model"] == "adapter"]
    people = of_adapter[names].drop_duplicates().to_dict("records")
    assert len(people) == 16
    for name, model in (("adapter", tuned), (str(tiny_checkpoint), base)):
        python = model.answer([PETS], people)
        shell = table[table["model"] == name]
        assert python["p"].tolist() == shell["p"].tolist()
        assert python["option_mass"].tolist() == shell["option_mass"].tolist()
    assert np.allclose(of_adapter.groupby(names)["p"].sum(), 1)


def test_p_is_the_mean_of_both_orders_and_inside_its_range(out):
    table = answered(out)
    other = 2 * table["p"] - table["p_reversed"]
    low, high = np.minimum(other, table["p_reversed"]), np.maximum(other, table["p_reversed"])
    np.testing.assert_allclose(table["p_low"], low, atol=1e-12)
    np.testing.assert_allclose(table["p_high"], high, atol=1e-12)
    assert (high - low).max() > 1e-4


def test_a_survey_question_is_answered_as_evaluate_answers_it(tuned, scored):
    row = (
        read_dataset("gss2018")
        .questions.set_index("question_id")
        .loc[scored["question_id"].iloc[0]]
    )
    question = Question(row["text"], tuple(row["option_labels"]), codes=tuple(row["option_codes"]))
    cells = scored[scored["question_id"] == row.name]
    names = ["country", *tuned.experiment.survey.attributes]
    people = [
        {name: value for name, value in cell.items() if isinstance(value, str)}
        for cell in cells[names].to_dict("records")
    ]
    found = tuned.answer([question], people)["p"].to_numpy()
    np.testing.assert_allclose(found, np.concatenate(list(cells["p_model"])), atol=1e-6)


def test_evaluate_takes_the_order_from_the_record(adapter, scored, tmp_path):
    config = load_config("evaluate:record")
    config.adapter.path = str(adapter)
    evaluate.main(config, tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["prompt"]["option_order"] == "both"
    written = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    np.testing.assert_allclose(written["score"], scored["score"], atol=1e-6)


def test_a_countrys_answer_is_the_weighted_mean(out):
    table, weights = answered(out), pd.read_csv(out / "weights.csv")
    assert weights["weight"].sum() == pytest.approx(1)
    joint = weights.groupby(["gender", "education", "marital_status"])["weight"].sum()
    assert joint["Female", "Not College Educated", "Married"] == pytest.approx(0.7 * 0.75)
    assert joint["Male", "College Educated", "Not Married"] == 0
    national = pd.read_csv(out / "national.csv")
    mine = table[(table["model"] == "adapter") & (table["option"] == "No")]
    mine = mine.merge(weights, on=[*weights.columns.drop("weight")])
    row = national[(national["model"] == "adapter") & (national["option"] == "No")].iloc[0]
    assert row["p"] == pytest.approx((mine["p"] * mine["weight"]).sum())
    assert row["p_unweighted"] == pytest.approx(mine["p"].mean())
    assert row["n_personas"] == 16


def test_effects_are_the_differences_of_answers(out):
    effects, table = pd.read_csv(out / "effects.csv"), answered(out)
    # 16 personas in 8 pairs an attribute, 4 attributes, 3 options, 2 models.
    assert len(effects) == 8 * 4 * 3 * 2
    one = effects[(effects["model"] == "adapter") & (effects["attribute"] == "gender")].iloc[:3]
    rest = {name: one.iloc[0][name] for name in ("education", "residence", "marital_status")}
    chosen = table[(table["model"] == "adapter")]
    for name, level in rest.items():
        chosen = chosen[chosen[name] == level]
    p = {gender: its["p"].to_numpy() for gender, its in chosen.groupby("gender")}
    moved = p[one.iloc[0]["to_level"]] - p[one.iloc[0]["from_level"]]
    np.testing.assert_allclose(one["effect"], moved, atol=1e-12)
    turned = {gender: its["p_reversed"].to_numpy() for gender, its in chosen.groupby("gender")}
    of_reversed = turned[one.iloc[0]["to_level"]] - turned[one.iloc[0]["from_level"]]
    np.testing.assert_allclose(one["effect_reversed"], of_reversed, atol=1e-12)
    np.testing.assert_allclose(one["cumulative_effect"], moved.cumsum(), atol=1e-12)
    np.testing.assert_allclose(one["mean_effect"], moved @ [1, 2, 3], atol=1e-12)


def test_like_questions_are_shown_with_what_the_survey_says(out, tuned):
    nearest = pd.read_csv(out / "nearest.csv")
    assert nearest["rank"].tolist() == [1, 2, 3]
    assert nearest["similarity"].is_monotonic_decreasing
    held_out = tuned.experiment.held_out.questions
    assert nearest["seen"].tolist() == [name not in held_out for name in nearest["nearest_id"]]
    assert nearest["score"].notna().tolist() == (~nearest["seen"]).tolist()
    facts = json.loads((out / "ask.json").read_text())
    assert facts["models"]["adapter"]["prompt"]["option_order"] == "both"
    assert (out / "answers.png").stat().st_size > 10_000


def test_several_adapters_are_seeds_and_an_unseen_country_is_warned_of(
    adapter, tuned, tmp_path, capsys
):
    run("--adapter", adapter, adapter, "--question", "Well?", "--option", "Yes", "No",
        "--country", "CHL", "USA", "--output", tmp_path / "out")  # fmt: skip
    assert "warning: country CHL: training saw no answers of it" in capsys.readouterr().err
    people = [{"country": "CHL"}, {"country": "USA"}]
    expected = tuned.answer([Question("Well?", ("Yes", "No"))], people)
    assert answered(tmp_path / "out")["p"].tolist() == pytest.approx(expected["p"].tolist())
    assert (tmp_path / "out" / "effects.csv").read_text().count("\n") == 1


def test_people_of_one_profile_are_asked_once(tuned, monkeypatch):
    sizes = []
    ask_once = LanguageModel.ask

    def counted(self, prompts, *rest, **more):
        sizes.append({name: len(texts) for name, texts in prompts.items()})
        return ask_once(self, prompts, *rest, **more)

    monkeypatch.setattr(LanguageModel, "ask", counted)
    table = tuned.answer([PETS], [*WHO, *WHO[:1]])
    assert sizes == [{"False": 2, "True": 2}]
    assert len(table) == 9
    assert table["p"].tolist()[:3] == table["p"].tolist()[6:]


def test_adapters_that_learnt_something_else_are_no_seeds(adapter, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    record = json.loads((other / "ace_experiment.json").read_text())
    del record["content_sha256"]
    record["seed"] = 5
    (other / "ace_experiment.json").write_text(json.dumps(record))
    assert len(open_models([adapter, other], None, None).adapters) == 2
    record["recipe"]["optimizer"]["learning_rate"] = 0.5
    (other / "ace_experiment.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"has another recipe\.optimizer\.learning_rate than"):
        open_models([adapter, other], None, None)


def test_an_evaluation_is_not_replaced(adapter, tmp_path):
    """It has an answers.csv, too."""
    (tmp_path / "answers.csv").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run("--adapter", adapter, "--question", "Well?", "--option", "Yes", "No", "--country",
            "USA", "--output", tmp_path)  # fmt: skip
    assert (tmp_path / "answers.csv").read_text() == "mine"


def test_the_mean_over_seeds_and_orders():
    """p of option 1 is 0.1, 0.3 as given and 0.2, 0.6 reversed."""
    who = pd.DataFrame({"country": ["USA"], "question_id": ["q"]})

    def asked(given, turned):
        answers = [Answers([np.array([p, 1 - p])], np.ones(1)) for p in (given, turned)]
        return Asked(who, [("Yes", "No")], dict(zip((False, True), answers, strict=True)))

    runs = [asked(0.1, 0.2), asked(0.3, 0.6)]
    for listings, p in (((False,), 0.2), ((True,), 0.4), ((False, True), 0.3)):
        row = answers_table(runs, listings).iloc[0]
        assert row[["p", "p_reversed", "p_low", "p_high"]].tolist() == pytest.approx(
            [p, 0.4, 0.1, 0.6]
        )


def test_shifts_need_the_persona_with_both_levels():
    table = pd.DataFrame(
        {
            "country": ["USA", "USA", "CAN"],
            "gender": ["Male", "Female", "Male"],
            "question_id": "q",
            "option": "Yes",
            "p": [0.25, 0.75, 0.5],
            "option_mass": 1.0,
        }
    )
    shifts = shifts_table(table, "gender", ["Male", "Female"])
    assert shifts["country"].tolist() == ["USA"]
    assert shifts["effect"].tolist() == [0.5]


def test_a_persona_that_is_there_twice_counts_once():
    """And an attribute may have any name that is not reserved, such as `place`."""
    table = pd.DataFrame(
        {
            "country": "USA",
            "place": ["Here", "Here", "There", "There"] * 2,
            "question_id": "q",
            "option": ["Yes", "No"] * 4,
            "p": [0.25, 0.75, 0.75, 0.25] * 2,
            "option_mass": 1.0,
        }
    )
    shifts = shifts_table(table, "place", ["Here", "There"])
    assert shifts["effect"].tolist() == [0.5, -0.5]
    assert shifts["mean_effect"].tolist() == [-0.5, -0.5]


def test_the_prompt_is_shown_as_a_server_must_send_it(adapter, tuned, capsys):
    run("--adapter", adapter, "--question", PETS.text, "--option", *PETS.options, "--country",
        "USA", "--persona", "gender=Female", "--show-prompt")  # fmt: skip
    shown = capsys.readouterr().out
    assert "1. Yes\n2. It depends\n3. No\n" in shown
    assert "1. No\n2. It depends\n3. Yes\n" in shown
    assert shown.count("the labels to compare") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--country", "USB"], "country: 'USB' is not known; did you mean .*USA"),
        (["--country", "USA", "--persona", "gender=Femal"], "level of gender: 'Femal' .* Female"),
        (["--country", "USA", "--persona", "sex=Female"], "attribute: 'sex' is not known"),
        ([], "--country: name a country"),
        (["--country", "USA", "--option", "Yes"], "gives an option twice"),
        (["--country", "USA", "--questions", "q.csv"], "either --question with --option, or"),
        (["--country", "USA", "--prompt", "question_first"], "--prompt: is of --model"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(adapter, tmp_path, arguments, message):
    given = ("--adapter", adapter, "--question", "Well?", "--option", "Yes", "No")
    with pytest.raises(InputError, match=message):
        run(*given, *arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
