import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.prepare import main
from ace_jax.runtime.progress import show_messages
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.dataset import FILES, read_dataset
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.readers.gss import DEGREE, FROM_ABORTION, SEX

SIZE = 400


@pytest.fixture
def tables(tmp_path):
    """Made-up tables in the layout of the real ones, the last respondent without marital status."""
    random = np.random.default_rng(0)
    age, sex, degree = (random.integers(*ends, SIZE) for ends in ((18, 90), (0, 2), (0, 5)))
    answers = {
        question.question_id: random.choice(question.option_codes, SIZE)
        for question in read_codebook(BUILTIN / "gss2018.toml").questions
    }
    shared = {"year": 2018, "id": np.arange(SIZE), "age": age}
    text_sex = pd.Series(sex).map(SEX)
    marital = random.choice(["Married", "Divorced"], SIZE).astype(object)
    marital[-1] = None
    abortion = {name: answers.pop(name) for name in FROM_ABORTION}
    frames = {
        "gss_spending": shared
        | {"sex": sex, "degree": degree, "xnorcsiz": random.integers(1, 11, SIZE)}
        | {"wt": random.uniform(0.5, 2, SIZE)}
        | answers,
        "gss_wages": shared
        | {"gender": text_sex, "educcat": pd.Series(degree).map(DEGREE), "maritalcat": marital},
        "gss_abortion": shared | {"sex": text_sex} | abortion,
    }
    for name, columns in frames.items():
        pd.DataFrame(columns).to_csv(tmp_path / f"{name}.csv", index=False)
    return [str(tmp_path / f"{name}.csv") for name in frames]


def prepared(tmp_path, *arguments):
    output = tmp_path / "dataset"
    main(["--source", "gss2018", "--output", str(output), *arguments])
    return read_dataset(output)


def digests(directory):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def test_without_input_the_embedded_dataset_is_written_out(tmp_path):
    prepared(tmp_path)
    written = digests(tmp_path / "dataset")
    (made, known) = (read_dataset(of) for of in (tmp_path / "dataset", "gss2018"))
    assert made.manifest == known.manifest and written.pop("manifest.json")
    assert written.items() <= digests(BUILTIN / "gss2018").items()


def test_survey_files_become_a_dataset(tmp_path, tables, capsys):
    show_messages()
    made = prepared(tmp_path, "--input", *tables)
    assert {path.name for path in (tmp_path / "dataset").iterdir()} == FILES
    counts = made.manifest["counts"]
    assert (counts["respondents_in"], counts["respondents_out"]) == (SIZE, SIZE - 1)
    assert counts["missing"]["marital_status"] == 1
    by_granularity = counts["granularity"].values()
    assert sum(row["cells"] for row in by_granularity) == len(made.cells)
    pairs = toggle_pairs(made.cells, made.attributes, min_n=10)
    assert counts["granularity"]["4"]["pairs_min_n_10"] == len(pairs)
    assert counts["by_country"] == {"USA": {"respondents_in": SIZE, "respondents_out": SIZE - 1}}
    assert sum(counts["questions"].values()) == len(made.questions)
    assert counts["answered"]["USA"] == dict.fromkeys(counts["questions"], SIZE - 1)
    assert [entry["name"] for entry in made.manifest["inputs"]] == [
        "gss_abortion.csv",
        "gss_spending.csv",
        "gss_wages.csv",
    ]
    told, said = capsys.readouterr()
    assert f"{SIZE} respondents, {SIZE - 1} with a level for every attribute" in told
    assert "marital_status 1" in told
    assert said.splitlines()[-1] == f"DATASET written to {tmp_path / 'dataset'}"


def test_the_order_of_the_files_does_not_show(tmp_path, tables):
    prepared(tmp_path, "--input", *tables)
    first = digests(tmp_path / "dataset")
    prepared(tmp_path, "--input", *reversed(tables))
    assert digests(tmp_path / "dataset") == first


def test_rules_and_weights_are_applied_and_recorded(tmp_path, tables):
    plain = prepared(tmp_path, "--input", *tables)
    ruled = prepared(
        tmp_path,
        *("--input", *tables, "--weights", "wt"),
        *("--rule", "education.college=4", "--rule", "residence.rural=8"),
    )
    rules = ruled.manifest["rules"]
    assert rules["attributes"]["education"]["levels"]["College Educated"] == ">= 4"
    assert rules["attributes"]["residence"]["levels"]["Rural"] == ">= 8"
    assert (rules["weights"], plain.manifest["rules"]["weights"]) == ("wt", None)
    assert rules["dropped_codes"] == {"partyid": [7]}

    def college(dataset):
        cells = dataset.cells
        return cells[(cells["granularity"] == 1) & (cells["education"] == "College Educated")]

    assert (college(ruled)["n"].sum() < college(plain)["n"].sum()).all()
    assert (college(ruled)["effective_n"] < college(ruled)["n"]).all()


def test_shrunk_cells_stand_beside_the_raw_ones(tmp_path, tables):
    raw = prepared(tmp_path, "--input", *tables)
    both = prepared(tmp_path, "--input", *tables, "--estimator", "shrunk")
    for one, other in zip(raw.cells["p"], both.cells["p"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [list(p) for p in raw.learnt] == [list(p) for p in raw.cells["p"]]
    assert [list(p) for p in both.learnt] == [list(p) for p in both.cells["p_shrunk"]]
    assert any((p != q).any() for p, q in zip(both.learnt, both.cells["p"], strict=True))
    assert both.manifest["estimator"] == "shrunk"
    assert set(both.manifest["prior_respondents"]) == set(both.questions["question_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "education.college=3"], "give them with --input"),
        (["--weights", "wt"], "give them with --input"),
        (["--input", "TABLES", "--rule", "education.college"], "write KEY=NUMBER"),
        (["--input", "TABLES", "--rule", "income.high=3"], "no such rule"),
        (["--input", "TABLES", "--weights", "w8"], "no column w8"),
        (["--countries", "USA"], "--countries is for a survey's own files"),
        (["--input", "TABLES", "--countries", "FRA"], "--countries: all respondents .* are of USA"),
        (
            ["--input", "TABLES", "--codebook", "c.toml"],
            "no other source takes one",
        ),
        (["--source", "table", "--input", "TABLES"], "--source table needs --codebook FILE"),
        (["--source", "release"], "--source release needs --input DIRECTORY"),
        (["--source", "release", "--input", "d", "--weights", "w"], "--weights is for a survey's"),
        (["--source", "wvs7"], "--source wvs7 needs the survey's files"),
    ],
)
def test_mistakes_are_named(tmp_path, tables, arguments, message):
    files = [name for text in arguments for name in (tables if text == "TABLES" else [text])]
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, *files)
    assert not (tmp_path / "dataset").exists()


def test_the_command_fails_with_one_line(tmp_path):
    command = [sys.executable, "-m", "ace_jax.prepare", "--source", "gss2018"]
    command += ["--input", "none.csv", "--output", str(tmp_path / "d")]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: cannot read none.csv")
    assert "Traceback" not in failed.stderr


def test_the_command_has_help_and_offers_only_known_sources(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--rule KEY=VALUE" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--source", "wvs8", "--output", str(tmp_path)])
    assert "gss2018" in (refused := capsys.readouterr().err) and "wvs7" in refused
