"""What training learns from, of a dataset and of the authors' files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_evaluate import config_for
from test_release_eval import put_everyone
from test_train import small_config

from ace_jax import evaluate, train
from ace_jax.errors import InputError
from ace_jax.prompts.encode import PromptStyle
from ace_jax.recipe import Objective, load_config
from ace_jax.survey.dataset import read_dataset, select_questions
from ace_jax.survey.estimators import pair_precision
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.training.data import of_dataset, training_data

GSS = read_dataset("gss2018")
EQLS = select_questions(read_dataset("eqls2011"), ("trust_people",))
PAIRS = toggle_pairs(GSS.cells, GSS.attributes, min_n=10)
STYLE = PromptStyle.of("persona_first", "number")


def test_every_endpoint_is_there_once():
    examples = of_dataset(GSS, PAIRS, STYLE, "none")
    assert len(examples.prompts) == len(set(PAIRS["cell_0"]) | set(PAIRS["cell_1"])) == 464
    assert (examples.pairs["weight"] == 1).all()
    for row in range(0, len(PAIRS), 50):
        for end in ("cell_0", "cell_1"):
            cell, place = GSS.cells.iloc[PAIRS[end][row]], examples.pairs[end][row]
            assert cell["gender"] in examples.prompts[place].text
            np.testing.assert_array_equal(examples.answers[place], cell["p"])
            assert examples.modes[place] == np.argmax(cell["p"])


def test_precise_pairs_weigh_more():
    weighted = of_dataset(GSS, PAIRS, STYLE, "precision").pairs
    expected = pair_precision(GSS.cells, PAIRS[["cell_0", "cell_1"]].to_numpy())
    np.testing.assert_allclose(weighted["weight"], expected)
    assert weighted["weight"].max() > 2 * weighted["weight"].min()


def test_the_country_counts_as_much_as_all_attributes():
    pairs = toggle_pairs(EQLS.cells, EQLS.attributes, min_n=10, countries=True)
    weighted = of_dataset(EQLS, pairs, STYLE, "toggle").pairs
    total = weighted.groupby("attribute")["weight"].sum()
    np.testing.assert_allclose(total.pop("country"), len(pairs) / 2)
    np.testing.assert_allclose(total, [len(pairs) / 8] * 4)
    assert weighted.groupby("attribute")["weight"].nunique().eq(1).all()


def test_shrunk_answers_are_learnt_where_there_are_any():
    shrunk = [np.roll(p, 1) for p in GSS.cells["p"]]
    both = replace(GSS, cells=GSS.cells.assign(p_shrunk=shrunk))
    raw, learnt = (of_dataset(dataset, PAIRS, STYLE, "none") for dataset in (GSS, both))
    for one, other in zip(raw.answers, learnt.answers, strict=True):
        np.testing.assert_array_equal(np.roll(one, 1), other)


def line(country, question, gender, other):
    """A line of the authors' training files."""

    def group(level, p):
        text = f"You are {level}, {other}.\n{question}\n1. Yes\n2. No\nAnswer:"
        return {"prompt_text": text, "p_real": {"1": p, "2": 1 - p}, "mode_option": 1}

    return {
        "country": country,
        "question_id": question,
        "options": [1, 2],
        "group_A": group(gender[0], 0.75),
        "group_B": group(gender[1], 0.625),
    }


@pytest.fixture
def released(tmp_path):
    """Two questions in two countries, two pairs each."""
    for country in ("egypt", "japan"):
        lines = [
            line(country, question, ("Male", "Female"), other)
            for question in ("q1", "q2")
            for other in ("Urban", "Rural")
        ]
        text = "".join(json.dumps(entry) + "\n" for entry in lines)
        (tmp_path / f"{country}.jsonl").write_text(text)
    return tmp_path


def config_of(checkpoint, path="", **changes):
    own = {"data.path": str(path), "data.questions": (), "batch.row_lengths": (128, 256)}
    return small_config(checkpoint, **own | {"data.min_n": 10} | changes)


def test_the_authors_training_files_train(released, tiny_checkpoint, tmp_path):
    config = config_of(tiny_checkpoint, released)
    examples = training_data(config).train
    assert (len(examples.prompts), len(examples.pairs)) == (8, 8)
    assert examples.prompts[0].labels == ("1", "2")
    assert examples.prompts[0].text.endswith("Answer:\n")
    train.main(config, tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("holdout", "kept"), [("none", 8), ("question:0.5", 4), ("country:EGY", 4)]
)
def test_questions_and_countries_of_them_can_be_held_out(released, tiny_checkpoint, holdout, kept):
    config = config_of(tiny_checkpoint, released, **{"data.holdout": holdout})
    data = training_data(config)
    pairs = data.train.pairs
    assert len(pairs) == kept
    assert len(data.held_out.questions + data.held_out.countries) == (holdout != "none")
    if holdout != "none":
        assert pairs["question_id" if "question" in holdout else "country"].nunique() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.holdout": "topic:Security"}, "training file names no topic"),
        ({"data.holdout": "country:FRA"}, "no 'FRA'"),
        ({"data.questions": ("q1",)}, r"data\.questions: .* train on a DATASET"),
        ({"objective.pair_weight": "precision"}, r"objective\.pair_weight: precision .* to none"),
        ({"data.granularity": 1}, r"data\.granularity: 1 .* to None"),
        ({"objective.toggles": ("attributes", "country")}, r"objective\.toggles: .* no pair betw"),
    ],
)
def test_what_the_files_do_not_say_is_refused(released, tiny_checkpoint, changes, message):
    with pytest.raises(InputError, match=message):
        training_data(config_of(tiny_checkpoint, released, **changes))


def test_another_pair_weight_is_refused():
    section = load_config("quickstart").objective
    section.pair_weight = "n"
    with pytest.raises(InputError, match=r"objective\.pair_weight: 'n' is not known; .* none"):
        Objective.of(section)


def test_the_authors_cells_are_evaluated_and_trained_on(tiny_checkpoint, tmp_path):
    put_everyone(tmp_path / "eval")
    path = {"data.path": str(tmp_path / "eval")}
    evaluate.main(config_for(tiny_checkpoint, "", **path), tmp_path / "out")
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert set(predictions["country"]) == {"JPN"}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(run["data"]["digest"]) == 64
    examples = training_data(config_of(tiny_checkpoint, **path)).train
    assert examples.pairs["context"].nunique() == 1
    assert "Japan" in examples.prompts[0].text
