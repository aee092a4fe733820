import json
import runpy

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import wasserstein_distance
from test_train import ROOT, quick_commands
from torch_reference import option_distribution, option_log_likelihoods
from transformers import AutoModelForCausalLM

from ace_jax import evaluate
from ace_jax.errors import InputError
from ace_jax.evaluation.record import requested_set
from ace_jax.evaluation.references import REFERENCES, reference_answers
from ace_jax.model.formats.hf import fingerprint
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.prompts.encode import PromptStyle, encode, render_cells
from ace_jax.survey.dataset import Dataset, read_dataset, select_questions, write_dataset

COLUMNS = [
    "source",
    "country",
    "question_id",
    "granularity",
    "gender",
    "education",
    "residence",
    "marital_status",
    "n",
    "effective_n",
    "p_data",
    "p_model",
    "option_mass",
    "distance",
    "score",
]
SCORES = ["country", "granularity", "n_cells", "n_questions", "score", "ci_low", "ci_high"]
BESIDE = [f"score_{name}" for name in REFERENCES]


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


@pytest.fixture(scope="module")
def survey_path(tmp_path_factory):
    """Two countries of unlike size, in an order that is not that of the questions."""
    gss = select_questions(read_dataset("gss2018"), ("natspac", "abany"))
    usa = gss.cells
    mexico = usa[(usa["question_id"] == "natspac") & (usa["granularity"] != 2)]
    mexico = mexico.assign(country="MEX", p=[p[::-1].copy() for p in mexico["p"]])
    cells = pd.concat([mexico, usa]).sample(frac=1, random_state=0, ignore_index=True)
    path = tmp_path_factory.mktemp("data") / "two"
    write_dataset(Dataset(gss.questions, cells, gss.manifest), path)
    return path


def config_for(checkpoint, survey, **changes):
    config = runpy.run_path(str(ROOT / "configs/evaluate.py"))["get_config"]("quickstart")
    settings = {
        "model.path": str(checkpoint),
        "data.path": str(survey),
        "data.holdout": "none",
        "data.split": "all",
        "batch.row_lengths": (2048,),
    }
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(settings | changed)
    return config


def predictions_of(workdir):
    return pd.read_parquet(workdir / "predictions.parquet")


@pytest.fixture(scope="module")
def base(tiny_checkpoint, survey_path, tmp_path_factory):
    """The base model, evaluated."""
    workdir = tmp_path_factory.mktemp("base") / "new"
    evaluate.main(config_for(tiny_checkpoint, survey_path), workdir)
    return workdir


def test_every_cell_is_predicted_in_order(base, survey_path):
    predictions, cells = predictions_of(base), read_dataset(survey_path).cells
    assert list(predictions.columns) == COLUMNS
    same = [name for name in COLUMNS[:10]]
    pd.testing.assert_frame_equal(predictions[same], cells[same])
    for p, p_data in zip(cells["p"], predictions["p_data"], strict=True):
        np.testing.assert_array_equal(p, p_data)


def test_answers_are_distributions_and_scores_are_right(base):
    for cell in predictions_of(base).to_dict("records"):
        positions = np.arange(len(cell["p_data"]))
        assert cell["p_model"].shape == cell["p_data"].shape
        assert cell["p_model"].sum() == pytest.approx(1, abs=1e-6)
        assert 0 < cell["option_mass"] <= 1
        moved = wasserstein_distance(positions, positions, cell["p_model"], cell["p_data"])
        assert cell["distance"] == pytest.approx(moved / (len(positions) - 1), abs=1e-6)
        assert cell["score"] == 1 - cell["distance"]


def test_answers_are_those_of_the_reference(base, survey_path, tiny_checkpoint, tiny_torch):
    dataset = read_dataset(survey_path)
    style = PromptStyle.of("question_first", "number")
    some = [0, 1, len(dataset.cells) - 1]
    tokenizer = open_checkpoint(str(tiny_checkpoint)).tokenizer
    texts = render_cells(dataset.cells.iloc[some], dataset, style)
    prompts = encode(texts, tokenizer, chat=False)
    for prompt, (_, row) in zip(prompts, predictions_of(base).iloc[some].iterrows(), strict=True):
        with torch.no_grad():
            options = [list(option) for option in prompt.options]
            expected = option_log_likelihoods(tiny_torch, list(prompt.tokens), options)
        np.testing.assert_allclose(row["p_model"], option_distribution(expected), atol=1e-5)
        assert row["option_mass"] == pytest.approx(expected.exp().sum().item(), rel=1e-4)


def test_scores_are_flat_means(base):
    scores, cells = pd.read_csv(base / "scores.csv"), predictions_of(base)
    assert list(scores.columns) == [*SCORES, *BESIDE]
    assert set(zip(scores["country"], scores["granularity"], strict=True)) == {
        *((country, g) for country in ("USA", "ALL") for g in (1, 2, 3, 4)),
        *(("MEX", g) for g in (1, 3, 4)),
    }
    for row in scores.itertuples():
        part = cells[cells["granularity"] == row.granularity]
        if row.country != "ALL":
            part = part[part["country"] == row.country]
        # Every cell alike in its country, every country alike in ALL.
        assert row.score == pytest.approx(part.groupby("country")["score"].mean().mean())
        assert row.n_cells == len(part)
        if row.country == "MEX":  # one question says nothing about others
            assert np.isnan([row.ci_low, row.ci_high]).all()
        else:
            assert 0 <= row.ci_low <= row.score <= row.ci_high <= 1


def test_references_stand_beside_every_score(base, survey_path, tiny_checkpoint, tmp_path, capsys):
    config = config_for(tiny_checkpoint, survey_path, data__holdout="question:abany")
    config.data.split = "held_out"
    evaluate.main(config, tmp_path)
    printed = capsys.readouterr().out.split("what needs no language model")[1]
    dataset, predictions = read_dataset(survey_path), predictions_of(tmp_path)
    seen = (dataset.cells["question_id"] != "abany").to_numpy()
    expected = reference_answers(dataset.cells[~seen].reset_index(drop=True), dataset, seen)
    written = pd.read_parquet(tmp_path / "references.parquet")
    assert list(written.columns) == ["reference", "cell", "p"]
    assert list(written["reference"].unique()) == list(REFERENCES)
    scores = pd.read_csv(tmp_path / "scores.csv").query("country == 'USA'")
    for name, rows in written.groupby("reference"):
        assert rows["cell"].tolist() == list(range(len(predictions)))
        for p, wanted in zip(rows["p"], expected[name].p, strict=True):
            np.testing.assert_array_equal(p, wanted)
        moved = np.stack(rows["p"].to_list()) - np.stack(predictions["p_data"].to_list())
        distance = np.abs(np.cumsum(moved, axis=1))[:, :-1].sum(axis=1) / (moved.shape[1] - 1)
        for g, score in zip(scores["granularity"], scores[f"score_{name}"], strict=True):
            own = (predictions["granularity"] == g).to_numpy()
            assert score == pytest.approx(1 - distance[own].mean())
        assert f"{name} " in printed
    (mark,) = json.loads((tmp_path / "run.json").read_text())["marks"]
    said = "reference mean: uniform where training has no scale of that size: abany"
    assert mark == said


def test_the_run_says_what_was_scored(base, survey_path, tiny_checkpoint):
    run = json.loads((base / "run.json").read_text())
    source = open_checkpoint(str(tiny_checkpoint)).source
    assert run["model"]["fingerprint"] == fingerprint(source)
    assert run["data"]["digest"] == read_dataset(survey_path).digest
    assert run["held_out"] == {"questions": [], "countries": [], "personas": []}
    assert run["marks"] == []
    assert run["adapter"] is None
    assert run["prompt"]["template"] == "question_first"
    assert {path.name for path in base.iterdir()} == {
        "predictions.parquet",
        "references.parquet",
        "blocks.csv",
        "answers.csv",
        "national.csv",
        "questions.parquet",
        "scores.csv",
        "run.json",
        "lock",
    }
    questions = pd.read_parquet(base / "questions.parquet")
    assert list(questions.columns) == ["question_id", "topic", "text", "option_labels"]
    assert set(questions["question_id"]) == set(predictions_of(base)["question_id"])


def test_the_same_again_is_the_same(base, tiny_checkpoint, survey_path, tmp_path):
    evaluate.main(config_for(tiny_checkpoint, survey_path), tmp_path)
    pd.testing.assert_frame_equal(predictions_of(tmp_path), predictions_of(base))
    for name in ("scores.csv", "run.json"):
        assert (tmp_path / name).read_bytes() == (base / name).read_bytes()


def test_the_order_gap_is_to_a_survey_that_lists_its_options_the_other_way_round(
    base, tiny_checkpoint, survey_path, tmp_path
):
    dataset = read_dataset(survey_path)
    turned = {
        "option_labels": [labels[::-1] for labels in dataset.questions["option_labels"]],
        "option_codes": [codes[::-1] for codes in dataset.questions["option_codes"]],
    }
    cells = dataset.cells.assign(p=[p[::-1].copy() for p in dataset.cells["p"]])
    other = Dataset(dataset.questions.assign(**turned), cells, dataset.manifest)
    write_dataset(other, tmp_path / "turned")
    evaluate.main(config_for(tiny_checkpoint, tmp_path / "turned"), tmp_path / "out")
    answers, plain = (predictions_of(out) for out in (tmp_path / "out", base))
    moved = [
        wasserstein_distance(range(len(one)), range(len(one)), one, two[::-1]) / (len(one) - 1)
        for one, two in zip(plain["p_model"], answers["p_model"], strict=True)
    ]
    coarsest = plain["granularity"] == plain["granularity"].min()
    expected = plain.assign(moved=moved)[coarsest].groupby("question_id")["moved"].mean()
    gap = json.loads((base / "run.json").read_text())["order_gap"]
    assert gap["questions"] == pytest.approx(expected.to_dict(), abs=2e-6)
    assert gap["mean"] == pytest.approx(expected.mean(), abs=2e-6)
    assert min(gap["questions"].values()) > 0


def test_an_adapter_of_zeros_is_the_base_and_a_trained_one_is_not(
    base, tiny_checkpoint, survey_path, peft_adapter, tmp_path
):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(tmp_path / "zeros")
    answers = {}
    for name, adapter in (("zeros", tmp_path / "zeros"), ("random", peft_adapter("q_proj")[1])):
        config = config_for(tiny_checkpoint, survey_path, adapter__path=str(adapter))
        evaluate.main(config, tmp_path / "out" / name)
        answers[name] = np.concatenate(predictions_of(tmp_path / "out" / name)["p_model"])
        run = json.loads((tmp_path / "out" / name / "run.json").read_text())
        assert run["adapter"]["path"] == str(adapter)
        assert len(run["adapter"]["sha256"]) == 64
    of_base = np.concatenate(predictions_of(base)["p_model"])
    np.testing.assert_allclose(answers["zeros"], of_base, atol=1e-6)
    assert np.abs(answers["random"] - of_base).max() > 1e-2


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_split_is_that_of_training(split, survey_path):
    config = config_for("", survey_path, data__split=split, data__holdout="question:0.5")
    cells = requested_set(config, None).cells
    other = config_for("", survey_path, data__holdout="question:0.5", data__split="all")
    assert cells["question_id"].nunique() == 1
    assert len(requested_set(other, None).cells) > len(cells)


def test_small_cells_are_scored_too(survey_path):
    config = config_for("", survey_path, data__min_n=10**6)
    assert len(requested_set(config, None).cells) == len(read_dataset(survey_path).cells)


def test_answers_are_tidy(base, survey_path):
    answers, predictions = pd.read_csv(base / "answers.csv"), predictions_of(base)
    assert len(answers) == sum(map(len, predictions["p_model"]))
    first = answers.iloc[: len(predictions["p_model"][0])]
    np.testing.assert_allclose(first["p_model"], predictions["p_model"][0])
    np.testing.assert_allclose(first["p_data"], predictions["p_data"][0])
    questions = read_dataset(survey_path).questions.set_index("question_id")
    labels = questions["option_labels"][predictions["question_id"][0]]
    assert first["option_text"].tolist() == labels and first["option"].tolist() == [
        *range(1, len(labels) + 1)
    ]


def test_unknown_splits_and_no_cells_are_refused(tiny_checkpoint, survey_path, tmp_path):
    for changes, message in (
        ({"data__split": "test"}, r"data\.split: 'test' is not one of held_out, train, all"),
        (
            {"data__split": "held_out"},
            r"no cells to score: data\.split held_out, .*none; use",
        ),
    ):
        with pytest.raises(InputError, match=message):
            evaluate.main(config_for(tiny_checkpoint, survey_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_batch_of_nothing_is_refused(tiny_checkpoint, survey_path, tmp_path):
    config = config_for(tiny_checkpoint, survey_path, batch__size=0)
    with pytest.raises(InputError, match=r"batch\.size"):
        evaluate.main(config, tmp_path / "out")


def test_only_cells_of_a_granularity_are_scored_if_one_is_given(
    survey_path, tiny_checkpoint, tmp_path
):
    config = config_for(tiny_checkpoint, survey_path, data__granularity=1)
    evaluate.main(config, tmp_path)
    cells = read_dataset(survey_path).cells
    assert len(predictions_of(tmp_path)) == (cells["granularity"] == 1).sum()
    assert set(pd.read_csv(tmp_path / "scores.csv")["granularity"]) == {1}
    # It is on the record, so that answers to other cells are never taken for these.
    assert json.loads((tmp_path / "run.json").read_text())["data"]["granularity"] == 1
    config.data.granularity = 5
    with pytest.raises(InputError, match=r"no cells to score: .*data\.granularity 5"):
        evaluate.main(config, tmp_path / "none")
