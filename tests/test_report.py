"""The report command: what it writes, and what it says is missing."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.evaluation.references import REFERENCES
from ace_jax.report import __main__ as report
from ace_jax.report import figures
from ace_jax.report.compare import compare
from ace_jax.report.figures import looks_of
from ace_jax.report.page import content
from ace_jax.survey.personas import ATTRIBUTES, personas

QUESTION = {"question_id": "q1", "topic": "Trust", "text": "How much do you trust others?"}
QUESTION["option_labels"] = ["none", "some", "all"]
NASTY = "<script>alert(1)</script> & 50_% of $x | `y`"


def predictions(seed, questions=("q1", "q2"), countries=("MEX", "USA"), granularities=(1, 4)):
    """Random answers of all personas; the survey's do not depend on the seed."""
    model = np.random.default_rng(seed)
    rows = [
        {"country": country, "question_id": question, "granularity": g, **persona}
        for country in countries
        for question in questions
        for g in granularities
        for persona in personas(ATTRIBUTES, g)
    ]
    table = pd.DataFrame(rows).reindex(
        columns=["country", "question_id", "granularity", *(a.name for a in ATTRIBUTES)]
    )
    # An answer of the survey depends on its cell alone, so that other runs know the same one.
    keys = table.fillna("").astype(str).agg("/".join, axis=1)
    data = [np.random.default_rng(list(key.encode())).dirichlet(np.ones(3)) for key in keys]
    return table.assign(
        source="made up",
        n=50,
        effective_n=50.0,
        p_data=data,
        p_model=list(model.dirichlet(np.ones(3), len(table))),
    )


def write_out(out, table, **identity):
    out.mkdir()
    table.to_parquet(out / "predictions.parquet", index=False)
    levels = {attribute.name: attribute.levels for attribute in ATTRIBUTES}
    run = {"seed": 0, "attributes": levels, "data": {"min_n": 10}, "model": {"name": "tiny"}}
    (out / "run.json").write_text(json.dumps(run | identity))
    write_questions(out, table["question_id"].unique())
    return f"--run={out.name}={out}"


def write_questions(
    out, ids=("q1", "q2"), text="How much?", topic="Trust", labels=("none", "some", "all")
):
    rows = {"question_id": ids, "topic": topic, "text": text}
    rows |= {"option_labels": [list(labels)] * len(ids)}
    pd.DataFrame(rows).to_parquet(out / "questions.parquet", index=False)


def data_of(directory):
    page = (directory / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture
def draw():
    """For tests that need the figures, which take long."""


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Leaves out figures, and simulates ceilings with few draws."""
    monkeypatch.setattr("ace_jax.evaluation.ceilings.MOST", 6)
    if "draw" not in request.fixturenames:
        monkeypatch.setattr("ace_jax.report.compare.write_figures", lambda *_: None)


@pytest.fixture
def runs(tmp_path):
    """Two runs as evaluate writes them."""
    adapter = {"path": "a", "sha256": "0" * 64}
    return [
        write_out(tmp_path / "base", predictions(1), adapter=None),
        write_out(tmp_path / "trained", predictions(2), adapter=adapter),
    ]


def test_tables_figures_and_one_page_are_written(runs, tmp_path, capsys, draw):
    output = tmp_path / "report"
    report.main([*runs, "--output", str(output)])
    names = {path.name for path in output.iterdir()}
    assert {
        "index.html",
        "scores.csv",
        "gains.csv",
        "differences.csv",
        "effect_differences.csv",
        "effects.csv",
    } <= names
    drawn = {path.name for path in (output / "figures").iterdir()}
    for figure in ("scores", "granularity", "topics_g4", "classes", "effects"):
        assert {f"{figure}.png", f"{figure}.svg"} <= drawn
    scores = pd.read_csv(output / "scores.csv").set_index(["run", "country", "granularity"])
    gains = pd.read_csv(output / "gains.csv").set_index(["run", "country", "granularity"])
    base, trained = (scores.at[(name, "ALL", 4), "score"] for name in ("base", "trained"))
    assert gains.at[("trained", "ALL", 4), "gain"] == pytest.approx(trained - base, abs=1e-3)
    printed = capsys.readouterr().out
    assert f"{trained:.1f}" in printed
    assert f"{trained - base:+.1f}" in printed
    # The page asks nothing of a network.
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?!data:)", page)


def test_a_report_is_made_again_and_has_blocks_where_runs_held_out_the_same(tmp_path, capsys):
    unseen = {"questions": ["q1"], "countries": [], "personas": []}
    runs = []
    for seed, name in enumerate(("base", "trained")):
        table = predictions(seed, countries=("USA", "NGA"))
        runs.append(write_out(tmp_path / name, table, adapter=None, held_out=unseen))
    for _ in range(2):
        report.main([*runs, "--output", str(tmp_path / "report")])
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"blocks.csv", "tiers.csv", "gaps.csv"} <= written
    assert written <= {*report.OWN, *report.OTHERS}
    blocks = pd.read_csv(tmp_path / "report" / "blocks.csv")
    assert set(blocks["block"]) == {"unseen questions", "seen"}
    assert set(blocks["run"]) == {"base", "trained"}
    other = unseen | {"questions": ["q2"]}
    table = predictions(3, countries=("USA", "NGA"))
    runs.append(write_out(tmp_path / "other", table, adapter=None, held_out=other))
    report.main([*runs, "--output", str(tmp_path / "report")])
    assert "the runs did not hold out the same" in capsys.readouterr().out
    assert not (tmp_path / "report" / "blocks.csv").exists()


@pytest.fixture
def seeds(runs, tmp_path):
    """The second run with two seeds more."""
    for seed in (3, 4):
        write_out(tmp_path / f"seed {seed}", predictions(seed), adapter=None, seed=seed)
    return [*runs, *(f"--run=trained={tmp_path / f'seed {seed}'}" for seed in (3, 4))]


def test_runs_of_one_name_are_seeds_of_one_method(runs, seeds, tmp_path, capsys):
    apart = [*runs, *(f"--run=trained-{seed}={tmp_path / f'seed {seed}'}" for seed in (3, 4))]
    for name, of in (("means", seeds), ("apart", apart)):
        report.main([*of, "--output", str(tmp_path / name)])
    means, each = tmp_path / "means", tmp_path / "apart"
    three = ["trained", "trained-3", "trained-4"]
    for table, keys, columns in (
        ("scores", ["country", "granularity"], ["score", "ceiling", "n_cells"]),
        ("topics", ["country", "granularity", "topic"], ["score", "n_questions"]),
        ("gains", ["country", "granularity"], ["score", "gain"]),
        ("effects", ["country", "combination", "question_id"], ["model_effect", "data_se"]),
        ("effect_distances", ["country", "attribute"], ["distance", "floor", "n_pairs"]),
        ("classes", ["country", "class"], ["share"]),
        ("slopes", ["country", "granularity", "toggle"], ["n_cells"]),
    ):
        found, known = (pd.read_csv(of / f"{table}.csv") for of in (means, each))
        assert set(found["run"]) - {"perfect model", "no effect"} == {"base", "trained"}
        found = found[found["run"] == "trained"].set_index(keys)[columns]
        known = known[known["run"].isin(three)].groupby(keys)[columns].mean()
        pd.testing.assert_frame_equal(
            found.sort_index(), known, check_dtype=False, rtol=1e-4, atol=1e-4
        )
    scores, gains = (pd.read_csv(means / f"{name}.csv") for name in ("scores", "gains"))
    scores, gains = (of.set_index(["run", "country", "granularity"]) for of in (scores, gains))
    same = ["score", "ci_low", "ci_high"]
    assert np.allclose(scores[same].sort_index(), gains[same].sort_index(), atol=1e-3)
    gained = gains.loc[("trained", "ALL", 4)]
    spread = pd.read_csv(each / "scores.csv").query("country == 'ALL' and granularity == 4")
    spread = spread[spread["run"].isin(three)]["score"].std(ddof=1)
    assert gained["seed_sd"] == pytest.approx(spread, abs=1e-3)
    printed = capsys.readouterr().out.split("\nDistance")[0]
    assert "trained (3 seeds)" in printed


def test_the_page_has_the_mean_answer_of_all_seeds(seeds, tmp_path, monkeypatch):
    packed = {}
    monkeypatch.setattr(content, "pack", lambda _, sources, __: packed.update(p=sources) or ())
    report.main([*seeds, "--output", str(tmp_path / "report")])
    data = data_of(tmp_path / "report")
    assert [run["name"] for run in data["runs"]] == ["base", "trained"]
    assert data["runs"][1]["what"].endswith("seed 0 / seed 3 / seed 4")
    outs = [tmp_path / "trained", tmp_path / "seed 3", tmp_path / "seed 4"]
    tables = [pd.read_parquet(out / "predictions.parquet") for out in outs]
    expected = np.mean([np.stack(table["p_model"]) for table in tables], axis=0)
    assert np.allclose(packed["p"][2], expected)


def test_seeds_of_other_numbers_of_cells_are_averaged_where_all_have_them(seeds, tmp_path):
    fewer = tmp_path / "seed 3" / "predictions.parquet"
    pd.read_parquet(fewer).query("country == 'USA'").to_parquet(fewer)
    report.main([*seeds, "--output", str(tmp_path / "report")])
    data = data_of(tmp_path / "report")
    assert [country["code"] for country in data["countries"]] == ["USA"]
    assert f"trained ({tmp_path / 'seed 4'}): 48 of its 96 cells" in " ".join(data["notes"])


def test_text_of_a_survey_is_harmless_wherever_it_is_written(runs, tmp_path, draw):
    for name in ("base", "trained"):
        write_questions(tmp_path / name, text=NASTY, topic=NASTY, labels=(NASTY, "some", "all"))
    nasty_run = runs[1].replace("trained=", f"{NASTY}=", 1)
    output = tmp_path / "report"
    report.main([runs[0], nasty_run, "--output", str(output)])
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    question = data_of(output)["questions"][0]
    assert (question["text"], question["topic"], question["options"][0]) == (NASTY,) * 3


def test_marks_are_shown_in_the_text_and_the_page(runs, tmp_path, capsys):
    mark = "mismatch allowed: survey gss2018 & eqls2011"
    for name, base in (("base", "1" * 64), ("trained", "2" * 64)):
        path = tmp_path / name / "run.json"
        run = json.loads(path.read_text())
        run["model"]["fingerprint"] = base
        run |= {"marks": [mark] if name == "trained" else []}
        path.write_text(json.dumps(run))
    output = tmp_path / "report"
    report.main([*runs, "--output", str(output)])
    said = data_of(output)["marks"]
    assert said[0] == f"trained: {mark}."
    assert "base: 111111111111; trained: 222222222222" in said[1]
    assert said[0] in capsys.readouterr().out


def test_tables_with_their_record_are_compared_as_directories_are(runs, tmp_path):
    def scored(name):
        table = pd.read_parquet(tmp_path / name / "predictions.parquet")
        run = json.loads((tmp_path / name / "run.json").read_text())
        questions = [QUESTION, QUESTION | {"question_id": "q2"}]
        table.attrs["ace_jax"] = {"run": run, "questions": questions}
        return table

    comparison = compare({"base": scored("base"), "trained": [scored("trained")]})
    of_directories = compare({"base": tmp_path / "base", "trained": str(tmp_path / "trained")})
    assert comparison.scores.equals(of_directories.scores)
    assert comparison.scores.index.tolist() == ["base", "trained"]
    assert comparison.scores.columns.tolist() == [1, 4]
    assert f"{comparison.scores.at['trained', 4]:.1f}" in str(comparison)
    assert comparison.tables["gains"]["gain"].notna().all()
    comparison.save_html(tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert QUESTION["text"] in page
    assert page.endswith("</html>\n")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "runs: none is given"),
        ({"a": pd.DataFrame({"p_data": []})}, "a: the table has no record of its run"),
        ({"a": []}, "a: has no run"),
    ],
)
def test_what_cannot_be_compared_in_python_is_refused(runs, message):
    with pytest.raises(InputError, match=message):
        compare(runs)


def test_what_a_report_lacks_is_said(tmp_path):
    one = predictions(1, countries=("JPN", "KEN"), granularities=(1,)).assign(n=9)
    run = write_out(tmp_path / "only", one, adapter=None)
    report.main([run, "--output", str(tmp_path / "report")])
    notes = " ".join(data_of(tmp_path / "report")["notes"])
    assert "No tier for KEN" in notes
    assert "Effects are missing" in notes


def test_the_order_gap_of_seeds_is_their_mean(seeds, tmp_path):
    for name, gap in (("trained", 0.2), ("seed 3", 0.4)):  # the base did not measure it
        run = json.loads((tmp_path / name / "run.json").read_text())
        run["order_gap"] = {"mean": gap, "n_cells": 2, "questions": {"q1": gap, "q0": gap}}
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    report.main([*seeds, "--output", str(tmp_path / "report")])
    gaps = pd.read_csv(tmp_path / "report" / "order_gaps.csv")
    assert gaps["question_id"].tolist() == ["ALL", "q1", "q0"]
    assert gaps["gap"].tolist() == pytest.approx([30, 30, 30])


def write_references(out, **answers):
    tables = [
        pd.DataFrame({"reference": name, "cell": range(len(p)), "p": p})
        for name, p in answers.items()
    ]
    pd.concat(tables).to_parquet(out / "references.parquet", index=False)


def test_the_first_runs_references_are_shown(runs, tmp_path, draw):
    other = predictions(3)
    uniform = [np.full(3, 1 / 3)] * len(other)
    write_references(tmp_path / "base", uniform=uniform, nearest=list(other["p_model"]))
    # Of the other run there are fewer cells, in another order.
    cells = pd.read_parquet(tmp_path / "trained" / "predictions.parquet")
    cells = cells[cells["country"] == "USA"].sample(frac=1, random_state=0)
    cells.to_parquet(tmp_path / "trained" / "predictions.parquet", index=False)
    report.main([*runs, "--output", str(tmp_path / "report")])
    data = data_of(tmp_path / "report")
    assert data["references"] == ["uniform", "nearest"]
    assert [run["name"] for run in data["runs"]] == ["base", "trained"]
    assert not any("No references" in note for note in data["notes"])
    differences = pd.read_csv(tmp_path / "report" / "differences.csv")
    assert set(differences["other"]) == {"base", "trained"}  # no reference with another
    learnt = pd.read_csv(tmp_path / "report" / "effect_differences.csv")
    assert set(learnt["run"]) == {"trained"}  # a reference is no test to correct for
    # As methods of their own they have the same rows.
    write_out(tmp_path / "flat", other.assign(p_model=uniform))
    write_out(tmp_path / "near", other)
    methods = {"base": "base", "trained": "trained", "uniform.": "flat", "nearest.": "near"}
    (tmp_path / "base" / "references.parquet").unlink()
    apart = compare({name: tmp_path / of for name, of in methods.items()})
    for name in ("scores", "topics", "effects", "effect_distances"):
        table = apart.tables[name].assign(run=apart.tables[name]["run"].str.rstrip("."))
        found = pd.read_csv(tmp_path / "report" / f"{name}.csv")
        pd.testing.assert_frame_equal(found, table, check_dtype=False, rtol=1e-4)
    assert "No references: base has none" in " ".join(apart.notes)


def test_what_was_evaluated_is_said_in_a_line():
    model = {"name": "tiny", "dtype": "float32", "quantization": "none"}
    asked = {"model": model, "prompt": {"template": "persona_first"}, "seed": 0}
    asked["data"] = {"path": "made up", "split": "held_out", "holdout": "none"}
    assert content.what([asked]) == (
        "tiny, float32, no adapter, template persona_first, held_out of made up (hold-out none), "
        "seed 0"
    )
    smaller = asked | {"model": model | {"quantization": "int8"}}
    assert content.what([smaller]).startswith("tiny, int8, no adapter")


def test_methods_can_be_told_apart_however_many_there_are():
    looks = looks_of([f"method {number}" for number in range(20)]).values()
    assert len({(look["color"], look["marker"]) for look in looks}) == 20


def test_what_is_no_model_has_a_marker_of_its_own():
    looks = figures._hollow([figures.CEILING, *REFERENCES]).values()
    assert len({look["marker"] for look in looks}) == len(REFERENCES) + 1


def test_personas_that_training_never_saw_have_a_table_and_a_place_on_the_page(tmp_path):
    held_out = "Female/College Educated/Urban/Married"
    table = predictions(1)
    persona = dict(zip((a.name for a in ATTRIBUTES), held_out.split("/"), strict=True))
    table = table[(table[list(persona)] == pd.Series(persona)).all(axis=1)]
    data = {"min_n": 10, "split": "held_out", "holdout": f"persona:{held_out}"}
    run = write_out(tmp_path / "run", table, data=data)
    report.main([run, "--output", str(tmp_path / "report")])
    assert pd.read_csv(tmp_path / "report" / "composition.csv")["persona"].unique() == [held_out]
    assert "composition" in data_of(tmp_path / "report")["tables"]


def test_an_attribute_without_pairs_has_no_effects(tmp_path, capsys):
    tables = [predictions(seed).query("residence != 'Rural'") for seed in (1, 2)]
    runs = [
        write_out(tmp_path / name, table)
        for name, table in zip(("base", "trained"), tables, strict=True)
    ]
    report.main([*runs, "--output", str(tmp_path / "report")])
    found = pd.read_csv(tmp_path / "report" / "effect_distances.csv")["attribute"].unique()
    assert set(found) == {"gender", "education", "marital_status", "ALL"}
    assert "residence" not in capsys.readouterr().out


def test_runs_of_other_cells_are_compared_on_those_that_both_have(tmp_path, capsys):
    wide = write_out(tmp_path / "wide", predictions(1, countries=("MEX", "USA")))
    shuffled = predictions(2, countries=("JPN", "USA")).sample(frac=1, random_state=0)
    other = write_out(tmp_path / "other", shuffled)
    report.main([wide, other, "--output", str(tmp_path / "report")])
    data = data_of(tmp_path / "report")
    assert [country["code"] for country in data["countries"]] == ["USA"]
    assert "all of MEX" in data["notes"][0]
    assert "all of JPN" in data["notes"][1]
    assert "all of MEX" in capsys.readouterr().out
    alone = write_out(tmp_path / "alone", shuffled[shuffled["country"] == "USA"])
    report.main([alone, "--output", str(tmp_path / "report alone")])
    both, one = (
        pd.read_csv(tmp_path / name / "scores.csv").set_index(["run", "country", "granularity"])
        for name in ("report", "report alone")
    )
    for granularity in (1, 4):
        of_both = both.at[("other", "USA", granularity), "score"]
        assert of_both == pytest.approx(one.at[("alone", "USA", granularity), "score"])
