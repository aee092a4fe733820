"""The European Quality of Life Survey 2011: a user's own file, and the cells in the package."""

import numpy as np
import pandas as pd
import pytest

from ace_jax import load_survey, prepare
from ace_jax.errors import InputError
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.dataset import read_dataset

CODEBOOK = read_codebook(BUILTIN / "eqls2011.toml")
WHO = {
    "gender": ["Male", "Female", "Female", "Male"],
    "education": [
        "Tertiary education - first level (ISCED 5)",
        "Primary education (ISCED 1)",
        "Completed education abroad",
        "Primary education (ISCED 1)",
    ],
    "rural_urban_living": ["A village/small town"] * 4,
    "marital_status": ["Married or living with partner"] * 4,
}


def table(**changes):
    """Two respondents of 2011 who count, one without a level, one of 2007."""
    answers = {question.question_id: [1, 2, 3, 1] for question in CODEBOOK.questions}
    asked = {"wave": [2011, 2011, 2011, 2007], "country": ["AUT", "DEU", "DEU", "DEU"]}
    return pd.DataFrame(asked | WHO | answers | changes)


@pytest.mark.parametrize("name", ["eqls.csv", "eqls.parquet"])
def test_respondents_of_2011_become_cells(name, tmp_path):
    path = tmp_path / name
    table().to_csv(path, index=False) if name.endswith("csv") else table().to_parquet(path)
    arguments = ["--source", "eqls2011", "--input", str(path), "--output", str(tmp_path / "out")]
    prepare.main(arguments)
    dataset = read_dataset(tmp_path / "out")
    assert len(dataset.questions) == 26
    finest = dataset.cells[dataset.cells["granularity"] == 4].query("question_id == 'freq_sports'")
    assert finest["country"].tolist() == ["AUT", "DEU"]
    assert finest["education"].tolist() == ["College Educated", "Not College Educated"]
    assert np.stack(finest["p"]).argmax(axis=1).tolist() == [0, 1]
    assert finest["n"].tolist() == [1, 1]


def test_the_wave_of_2007_has_the_questions_that_it_asked(tmp_path):
    """The same codebook; a question that was first asked in 2011 is left out."""
    new = table()["freq_sports"].where(table()["wave"] == 2011)
    table(freq_sports=new).to_parquet(tmp_path / "eqls.parquet")
    arguments = ["--source", "eqls2007", "--input", str(tmp_path / "eqls.parquet")]
    prepare.main([*arguments, "--output", str(tmp_path / "out")])
    dataset = read_dataset(tmp_path / "out")
    for table_of in (dataset.questions, dataset.cells):
        assert set(table_of["source"]) == {dataset.name} == {"eqls2007"}
    assert len(dataset.questions) == 25
    assert dataset.cells["country"].unique().tolist() == ["DEU"]
    assert dataset.manifest["rules"]["questions_not_in_input"] == ["freq_sports"]


def test_the_cells_in_the_package_are_those_of_33_countries():
    survey = load_survey("eqls2011")
    assert survey.cells["country"].nunique() == 33
    assert survey.cells["n"].min() == 10
    counts = survey.cells["granularity"].value_counts().sort_index().tolist()
    assert counts == [6864, 20592, 27336, 12940]
    assert survey.questions["topic"].nunique() == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wave": [2007] * 4}, "has no respondents of 2011"),
        ({"freq_sports": [9] * 4}, "freq_sports"),
        ({"gender": ["M"] * 4}, "gender"),
    ],
)
def test_other_files_are_refused(changes, message, tmp_path):
    table(**changes).to_csv(tmp_path / "eqls.csv", index=False)
    arguments = ["--source", "eqls2011", "--input", str(tmp_path / "eqls.csv")]
    with pytest.raises(InputError, match=message):
        prepare.main([*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
