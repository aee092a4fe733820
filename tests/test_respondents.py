import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.survey.cells import complete_cases, from_table
from ace_jax.survey.codebook import Codebook, Question, Recode, Threshold
from ace_jax.survey.personas import ATTRIBUTES

GENDER, EDUCATION = ATTRIBUTES[:2]
CODEBOOK = Codebook(
    source="mine",
    citation="",
    country=None,
    country_column="land",
    recodes=(
        Recode(GENDER, "sex", {1: "Male", 2: "Female"}, (-1,)),
        Recode(EDUCATION, "degree", Threshold("college", 3, "College Educated"), (99,)),
    ),
    questions=(Question("mine", "q1", "Work", "?", (1, 2), ("No", "Yes"), True, dropped=(9,)),),
)
TABLE = pd.DataFrame(
    {
        "land": ["USA", "USA", "MEX", "MEX", "MEX"],
        "sex": [1.0, 2.0, 2.0, -1.0, np.nan],
        "degree": [3, 2, 99, 4, 4],
        "q1": [1.0, 2.0, 9.0, np.nan, 1.0],
        "w": [0.5, 1.0, 2.0, 1.0, 1.0],
    }
)


def test_codes_become_levels_answers_and_weights():
    frame = from_table(TABLE, CODEBOOK, "w").astype({"gender": object, "education": object})
    assert frame["country"].tolist() == ["USA", "USA", "MEX", "MEX", "MEX"]
    assert frame["gender"].fillna("?").tolist() == ["Male", "Female", "Female", "?", "?"]
    college, not_college = EDUCATION.levels
    assert frame["education"].fillna("?").tolist() == [college, not_college, "?", college, college]
    np.testing.assert_array_equal(frame["q1"], [1, 2, np.nan, np.nan, 1])
    assert frame["weight"].tolist() == [0.5, 1.0, 2.0, 1.0, 1.0]
    assert set(from_table(TABLE, CODEBOOK)["weight"]) == {1.0}
    two_letters = from_table(TABLE.assign(land=["US", "USA", "MX", "NA", "XK"]), CODEBOOK)
    assert two_letters["country"].tolist() == ["USA", "USA", "MEX", "NAM", "XKX"]


def test_complete_cases_know_every_attribute_but_may_lack_answers():
    table = TABLE.assign(q1=np.nan)
    assert len(complete_cases(from_table(table, CODEBOOK), CODEBOOK.attributes)) == 2


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("q1", [1, 7, 7, 9, 2], r"column q1 holds the code 7 \(2 respondents\).*an option"),
        ("q1", [1, "often", 2, 9, 2], "column q1 holds the code often"),
        ("sex", [1, 2, 3, 1, 1], r"column sex holds the code 3 \(1 respondents\).*a level"),
        ("degree", [1, 2, "BA", 1, 1], "column degree holds the code BA"),
        ("land", ["USA", "Mexico", "MEX", "MEX", "MEX"], "'Mexico' .* alpha-3"),
        ("w", [0, -1, np.nan, np.inf, 0], "weights column w holds no positive number"),
        ("w", [1, 1, 1e308, 1, 1], r"weights column w holds numbers from 1 to 1e\+308"),
        ("w", [1, 1, 1e-320, 1, 1], "weights column w holds numbers from"),
        ("land", ["USA", "ZZZ", "MEX", "MEX", "MEX"], "'ZZZ' .* alpha-3"),
    ],
)
def test_what_the_codebook_does_not_declare_is_refused(column, values, message):
    with pytest.raises(InputError, match=message):
        from_table(TABLE.assign(**{column: values}), CODEBOOK, "w")


def test_respondents_without_a_positive_weight_are_in_no_cell():
    frame = from_table(TABLE.assign(w=[1, 0, -1, np.nan, 2]), CODEBOOK, "w")
    assert frame["weight"].notna().tolist() == [True, False, False, False, True]
    assert complete_cases(frame, ()).shape[0] == 2


@pytest.mark.parametrize("column", ["land", "sex", "q1", "w"])
def test_a_missing_column_is_refused(column):
    with pytest.raises(InputError, match=f"no column {column}"):
        from_table(TABLE.drop(columns=column), CODEBOOK, "w")
