"""The report command, and what it computes: gains, effect distances and their intervals."""

import json

import numpy as np
import pandas as pd
import pytest

from ace_jax import report
from ace_jax.analysis.alignment import score_table
from ace_jax.analysis.comparison import effect_distances, score_gains
from ace_jax.analysis.effects import effect_distance, effect_table
from ace_jax.analysis.uncertainty import bootstrap_means
from ace_jax.errors import InputError
from ace_jax.survey.personas import ATTRIBUTES, personas

FINEST = personas(ATTRIBUTES, 4)
OPTIONS = 3


def predictions(seed, questions=("q1", "q2"), countries=("MEX", "USA"), n=10):
    """Random answers of all finest personas; the survey's do not depend on the seed."""
    data, model = np.random.default_rng(0), np.random.default_rng(seed)
    table = pd.DataFrame(
        [
            {"country": country, "question_id": question, "granularity": 4, **persona, "n": n}
            for country in countries
            for question in questions
            for persona in FINEST
        ]
    )
    table["p_data"] = list(data.dirichlet(np.ones(OPTIONS), len(table)))
    table["p_model"] = list(model.dirichlet(np.ones(OPTIONS), len(table)))
    table["score"] = model.uniform(size=len(table))
    return table


def test_an_effect_distance_by_hand():
    # The survey moves 0.3 from the first option to the last, the model nothing.
    assert effect_distance(np.zeros(3), np.array([-0.3, 0.0, 0.3])) == pytest.approx(0.2)


def test_effects_are_of_pairs_that_differ_by_one_attribute():
    table = predictions(1, questions=("q1",), countries=("USA",))
    effects = effect_table(table, ATTRIBUTES, min_n=10)
    assert effects["attribute"].value_counts().to_dict() == dict.fromkeys(
        [attribute.name for attribute in ATTRIBUTES], 8
    )
    at = table.set_index([attribute.name for attribute in ATTRIBUTES])
    others = ("Not College Educated", "Rural", "Married")
    zero, one = at.loc[("Male", *others)], at.loc[("Female", *others)]
    model, data = (one[name] - zero[name] for name in ("p_model", "p_data"))
    by_hand = np.abs(np.cumsum(model) - np.cumsum(data)).mean()
    assert np.isclose(effects["distance"], by_hand).sum() == 1
    assert np.isclose(effects["distance_no_effect"], np.abs(np.cumsum(data)).mean()).sum() == 1


def test_effect_distances_are_means_by_attribute_and_over_all():
    runs = {"base": predictions(1), "trained": predictions(2)}
    table = effect_distances(runs, ATTRIBUTES, min_n=10)
    assert table.columns.tolist() == ["base", "trained", "no effect"]
    assert table.index.tolist() == [*(attribute.name for attribute in ATTRIBUTES), "ALL"]
    trained = effect_table(runs["trained"], ATTRIBUTES, min_n=10)
    assert table["trained"]["ALL"] == pytest.approx(trained["distance"].mean())
    residence = trained[trained["attribute"] == "residence"]
    assert table["trained"]["residence"] == pytest.approx(residence["distance"].mean())
    assert table["no effect"]["ALL"] == pytest.approx(trained["distance_no_effect"].mean())


def test_a_mean_is_flat_within_a_country_and_over_countries():
    cells = pd.DataFrame(
        {
            "country": ["MEX", "MEX", "MEX", "USA"],
            "question_id": ["q1", "q1", "q2", "q1"],
            "score": [0.0, 0.6, 0.3, 0.9],
        }
    )
    assert bootstrap_means(cells, "score", seed=0)[0] == pytest.approx((0.3 + 0.9) / 2)


def test_the_interval_is_that_of_resampled_questions():
    # 400 questions whose means are normal: the interval is the mean -+ 1.96 standard errors.
    means = np.random.default_rng(0).normal(size=400)
    cells = pd.DataFrame(
        {"country": "USA", "question_id": np.arange(400).repeat(5), "score": means.repeat(5)}
    )
    centre, low, high = bootstrap_means(cells, "score", seed=0)
    half = 1.96 * means.std(ddof=1) / 20
    assert centre == pytest.approx(means.mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(centre, abs=0.1 * half)


def test_one_question_has_no_interval():
    centre, low, high = bootstrap_means(predictions(1, questions=("q1",)), "score", seed=0)
    assert np.isfinite(centre)
    assert np.isnan([low, high]).all()


def test_a_gain_is_paired():
    first = predictions(1, questions=tuple(f"q{number}" for number in range(30)))
    later = first.assign(score=first["score"] + 0.1)
    table = score_gains({"base": first, "trained": later}, ATTRIBUTES, seed=0)
    base, trained = table.to_dict("records")
    assert (base["run"], base["n_cells"], base["gain"]) == ("base", len(first), 0)
    assert base["score"] == pytest.approx(100 * first["score"].mean())
    for name in ("gain", "gain_low", "gain_high"):  # every question gains the same
        assert trained[name] == pytest.approx(10)
    assert trained["ci_high"] - trained["ci_low"] > 1


def test_runs_of_other_cells_are_refused():
    runs = {"base": predictions(1), "trained": predictions(2, questions=("q1", "q3"))}
    with pytest.raises(InputError, match="base and trained were not evaluated on the same cells"):
        score_gains(runs, ATTRIBUTES, seed=0)


def test_scores_have_a_row_a_country_and_one_for_all():
    table = predictions(1)
    scores = score_table(table, seed=0)
    assert scores["country"].tolist() == ["MEX", "USA", "ALL"]
    by_country = table.groupby("country")["score"].mean()
    assert scores["score"].tolist() == pytest.approx([*by_country, by_country.mean()])


@pytest.fixture
def outs(tmp_path):
    """Two directories as evaluate writes them."""
    for name, seed in (("base", 1), ("trained", 2)):
        out = tmp_path / name
        out.mkdir()
        predictions(seed).to_parquet(out / "predictions.parquet", index=False)
        levels = {attribute.name: attribute.levels for attribute in ATTRIBUTES}
        run = {"seed": 0, "attributes": levels, "data": {"min_n": 10}}
        (out / "run.json").write_text(json.dumps(run))
    return tmp_path


def test_the_command_writes_tables_and_a_picture(outs, capsys):
    runs = [f"--run={name}={outs / name}" for name in ("base", "trained")]
    report.main([*runs, "--output", str(outs / "report")])
    assert {path.name for path in (outs / "report").iterdir()} == {
        "scores.csv",
        "effects.csv",
        "scores.png",
    }
    scores = pd.read_csv(outs / "report" / "scores.csv")
    assert scores["run"].tolist() == ["base", "trained"]
    effects = pd.read_csv(outs / "report" / "effects.csv", index_col="attribute")
    assert effects.columns.tolist() == ["base", "trained", "no effect"]
    printed = capsys.readouterr().out
    assert f"{scores['score'][1]:.1f}" in printed
    assert f"{effects['trained']['ALL']:.4f}" in printed


def test_one_question_is_reported_without_an_interval(outs, capsys):
    for name, seed in (("base", 1), ("trained", 2)):
        one = predictions(seed, questions=("q1",))
        one.to_parquet(outs / name / "predictions.parquet", index=False)
    runs = [f"--run={name}={outs / name}" for name in ("base", "trained")]
    report.main([*runs, "--output", str(outs / "report")])
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("runs/base", "--run runs/base: write NAME=OUT"),
        ("base=no/where", r"no/where: predictions\.parquet is missing; run ace_jax\.evaluate"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, run, message):
    with pytest.raises(InputError, match=message):
        report.main(["--run", run, "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()
