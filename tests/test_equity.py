"""Tiers, gaps, gains and convergence, from the paper's own Table 1; unseen personas."""

import numpy as np
import pandas as pd
import pytest
from survey_tables import answered, persona_table, questions_of

from ace_jax.evaluation.alignment import alignment_table, scored_cells
from ace_jax.evaluation.comparison import gain_table
from ace_jax.evaluation.equity import (
    TIERS,
    composition_table,
    convergence,
    gap_table,
    tier_scores,
)
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.split import PAPER_PERSONAS

# Table 1 of the paper, G = 1 to 4.
COUNTRIES = "CHL MEX USA DEU GBR RUS IND JPN PHL EGY ETH NGA AUS NZL"
BASE = """
82.16 82.75 84.04 83.74 84.71 80.46 81.37 82.89 80.70 72.87 74.74 77.35 84.44 85.30
82.24 82.94 84.31 83.81 84.69 81.05 81.19 83.07 81.11 72.92 74.12 76.95 84.39 85.24
82.03 82.70 84.18 83.59 84.40 80.88 80.67 82.80 81.09 72.84 73.54 76.39 84.02 84.79
81.82 82.64 83.83 83.32 83.93 80.61 79.94 82.54 80.87 72.67 72.80 75.72 83.52 84.15
"""
ACE = """
85.17 86.39 87.75 87.54 87.23 84.53 87.57 85.19 87.24 85.00 79.33 84.25 87.98 86.99
85.03 86.05 87.60 87.47 87.13 84.79 87.19 85.02 87.41 85.19 79.19 84.74 87.68 86.73
84.95 85.91 87.34 87.37 87.05 84.73 86.69 84.89 87.30 85.03 79.05 84.95 87.35 86.50
84.90 86.17 87.21 87.16 86.85 84.55 86.10 84.81 87.00 84.67 78.53 84.77 86.91 86.27
"""


def table_1(text):
    rows = [line.split() for line in text.strip().splitlines()]
    return pd.DataFrame(
        [
            (granularity, country, float(score))
            for granularity, row in enumerate(rows, start=1)
            for country, score in zip(COUNTRIES.split(), row, strict=True)
        ],
        columns=["granularity", "country", "score"],
    )


def test_the_papers_gap_and_gains_follow_from_its_table():
    runs = {"base": table_1(BASE), "ace": table_1(ACE)}
    gap = convergence(runs).set_index(["run", "granularity"])["gap"]
    assert round(gap["base", "mean"], 2) == 9.81
    gain = tier_scores(runs).set_index(["run", "granularity", "tier"])["gain"]
    assert round(gain["ace", "mean", 3], 2) == 8.48
    # 2.9855 exactly; the paper rounds up.
    assert gain["ace", "mean", 1] == pytest.approx(2.99, abs=0.005)
    assert (gain["base"] == 0).all()


def test_what_the_papers_table_says_of_convergence():
    table = convergence({"base": table_1(BASE), "ace": table_1(ACE)})
    after = table.set_index(["run", "granularity"]).loc[("ace", "mean")]
    assert round(after["gap"], 2) == 4.31  # the paper's text says 4.92
    assert after["closed"] == pytest.approx(100 * (1 - 4.31383 / 9.81083), abs=0.01)
    assert after["slope"] < 0
    before = table.set_index(["run", "granularity"]).loc[("base", "mean")]
    assert (before["closed"], before["slope"]) == (0, 0)
    assert after["spread"] < before["spread"]


def test_tiers_are_means_of_their_countries():
    base = table_1(BASE)
    table = tier_scores({"base": base}).set_index(["granularity", "tier"])
    assert table["n_countries"].xs("mean").to_dict() == {1: 5, 2: 6, 3: 3}
    africa = base[base["country"].isin(["EGY", "ETH", "NGA"])]
    assert table["score"][4, 3] == pytest.approx(africa.query("granularity == 4")["score"].mean())
    assert table["score"]["mean", 3] == pytest.approx(africa["score"].mean())


def test_countries_without_a_tier_and_rows_over_all_change_no_gap():
    base = table_1(BASE)
    more = pd.DataFrame({"granularity": [1, 1], "country": ["KEN", "ALL"], "score": [50.0, 81.0]})
    with_more = pd.concat([base, more], ignore_index=True)
    gap, with_both = (convergence({"base": of})["gap"] for of in (base, with_more))
    assert with_both.equals(gap)


def test_without_a_tier_there_is_no_gap():
    usa = table_1(BASE).query("country == 'USA'")
    table = convergence({"base": usa, "ace": usa})
    assert table["gap"].isna().all()
    assert table["granularity"].tolist() == 2 * [1, 2, 3, 4, "mean"]


@pytest.fixture
def methods():
    """Scored cells of two runs on four countries, all tiers, two of whose granularities."""
    draws = np.random.default_rng(0)
    table = persona_table(["USA", "DEU", "EGY", "CHL"], [f"q{i}" for i in range(8)], (3, 4))
    truth, other = draws.dirichlet(np.ones(4), (2, len(table)))
    worse = np.where(table["country"] == "EGY", 0.9, 0.5)[:, None]
    models = {"base": worse * other + (1 - worse) * truth, "ace": 0.3 * other + 0.7 * truth}
    cells = {}
    for name, model in models.items():
        predictions = answered(table, truth, model, np.random.default_rng(1))
        cells[name] = scored_cells(predictions, questions_of(table, ("a", "b")), ATTRIBUTES)
    return cells


@pytest.mark.parametrize("average", ["nested", "flat"])
def test_a_gap_with_an_interval_is_the_gap_of_the_scores(methods, average):
    table = gap_table(methods, average).set_index(["run", "granularity"])
    scores = {name: alignment_table(cells, average) for name, cells in methods.items()}
    expected = convergence(scores).set_index(["run", "granularity"])["gap"]
    assert table["gap"].to_dict() == pytest.approx(expected.to_dict())
    change = table["gap"].xs("ace") - table["gap"].xs("base")
    assert table["change"].xs("ace").to_dict() == pytest.approx(change.to_dict())
    assert (table["gap_low"] < table["gap"]).all() and (table["gap"] < table["gap_high"]).all()
    assert (table["change_high"].xs("ace") < 0).all()
    assert (table["p_value"].xs("ace") < 0.05).all()


def test_a_gap_needs_both_tiers(methods):
    rich = {name: cells[cells["country"] != "EGY"] for name, cells in methods.items()}
    assert gap_table(rich, "flat").empty


def test_tier_scores_have_intervals_as_a_further_column(methods):
    cells = methods["base"].assign(tier=methods["base"]["country"].map(TIERS))
    table = alignment_table(cells, "flat", ("tier",))
    overall = table[table["country"] == "ALL"].set_index(["granularity", "tier"])["score"]
    by_hand = tier_scores({"base": alignment_table(methods["base"], "flat")})
    by_hand = by_hand[by_hand["granularity"] != "mean"].set_index(["granularity", "tier"])["score"]
    assert overall.to_dict() == pytest.approx(by_hand.to_dict())


def test_unseen_personas_by_topic(methods):
    unseen = {name: cells[cells["persona"].isin(PAPER_PERSONAS)] for name, cells in methods.items()}
    table = composition_table(unseen, "flat")
    assert set(table["persona"]) == set(PAPER_PERSONAS)
    assert set(table["topic"]) == {"a", "b", "ALL"}
    row = table.query("topic == 'b' and country == 'USA' and run == 'ace'").iloc[0]
    cells = unseen["ace"].query("topic == 'b' and country == 'USA'")
    assert row["score"] == pytest.approx(cells[cells["persona"] == row["persona"]]["score"].mean())
    overall = table[table["topic"] == "ALL"].reset_index(drop=True)
    assert overall["gain"].equals(gain_table(unseen, "flat", ("persona",))["gain"])
