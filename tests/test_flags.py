"""What a user is told of a survey that was read."""

import pandas as pd
import pytest
from test_codes import FOUR, OPTIONS, Q1, SCHOOL, made

from ace_jax.errors import InputError
from ace_jax.prepare import main
from ace_jax.survey.build import summary
from ace_jax.survey.codebook import Codebook, Question, Recode
from ace_jax.survey.flags import flags_of
from ace_jax.survey.personas import Attribute

SCALE = (
    'options = [[1, "Strongly disagree"], [2, "Agree"], [3, "Disagree"], [4, "Strongly agree"]]\n'
)
ALL_FOUR = "sex,q1\nM,1\nM,2\nF,3\nF,4\n"
Q2 = Q1.replace('"q1"', '"q2"') + 'options = [[1, "Yes"], [2, "No"]]\n'
TWO = "sex,q1,q2\nM,1,2\nM,2,1\nF,1,1\nF,1,2\n"


@pytest.mark.parametrize(
    ("content", "changes", "flag"),
    [
        (FOUR, {"question": 'options = [[1, "A"], [2, "B"], [3, "C"]]'}, "q1: nobody chose 'C'"),
        ("sex,q1\nM,\nM,\nM,\nF,1\n", {}, "q1: all 1 who answered chose 'No', and 3 are missing"),
        (ALL_FOUR, {"question": SCALE}, "q1: 'Agree' stands before 'Disagree'; put the"),
        (TWO, {"question": OPTIONS + Q2}, "topic Work: the options of q1 and of q2 run opposite"),
        (
            TWO.replace("1,2\n", "1,1\n").replace("2,1\n", "2,2\n"),
            {"question": OPTIONS + Q2.replace("Yes", "Often").replace("No", "Never")},
            "q2: every respondent answers as to q1",
        ),
        ("sex,q1,Q1\nM,1,2\nF,2,2\n", {}, "a.csv: has the columns q1 and Q1; q1 was read"),
        (FOUR.replace("F", "M"), {}, "gender: all have the same level, Male"),
        (
            "sex,school,q1\nM,None,1\nF,Primary,2\n",
            {"attributes": SCHOOL},
            "school: nobody has the code 'Secondary' of school",
        ),
        (
            "sex,school,q1\nM,1,1\nF,2,2\n",
            {
                "attributes": SCHOOL.replace('"Some"]', '"Some", "Much"]').replace(
                    '[["None"], ["Primary", "Secondary"]]', "[[1], [2], [3]]"
                )
            },
            "school: nobody is Much",
        ),
        (
            "sex,school,q1\nM,-1,1\nF,2,2\n",
            {
                "attributes": SCHOOL.replace(
                    'codes = [["None"], ["Primary", "Secondary"]]',
                    'threshold = { name = "cut", at_least = 1, level = "Some" }',
                )
            },
            "school: the code -1 (1 respondents) counts as a low one",
        ),
        (
            "sex,q1,w\nM,1,1\nM,2,0\nF,1,-1\nF,2,\nF,2,2\n",
            {"weights": "w"},
            "w: 3 respondents have no positive weight and are left out",
        ),
        (
            "sex,q1,who\nM,1,a\nF,2,a\n",
            {"top": 'id = "who"'},
            "who: 1 respondents have the id of another",
        ),
    ],
)
def test_each_is_a_line_in_the_manifest_and_on_the_screen(tmp_path, content, changes, flag):
    manifest = made(tmp_path, content, **changes).manifest
    assert [one for one in manifest["flags"] if one.startswith(flag)] != []
    assert flag in summary(manifest)


def test_an_ordinary_survey_has_none(tmp_path):
    assert made(tmp_path, FOUR).manifest["flags"] == []


def test_flags_that_a_codebook_cannot_cause():
    gender = Recode(Attribute("gender", ("Male", "Female")), "sex", {1: "Male", 2: "Female"})
    labels = ("Yes", "3. No", "3. no")
    question = Question("issp", "v1", "Work", "Are you [RELIGION]?", (1, 2, 3), labels, True)
    codebook = Codebook("issp", "", None, "country", (gender,), (question,))
    country = ["AUS"] * 20 + ["CHL"] * 20
    answers = pd.Series([1.0, 2.0] * 10 + [1.0, 3.0] * 10)
    table = pd.DataFrame({"country": country, "sex": [1, 2] * 20, "v1": answers})
    level = table["sex"].map({1: "Male", 2: "Female"})
    respondents = table.assign(gender=level, weight=1.0)
    assert [flag[:30] for flag in flags_of(table, respondents, codebook, None)] == [
        "v1: only AUS has the answer '3",
        "v1: only CHL has the answer '3",
        "v1: two options have the same ",
        "v1: [RELIGION] stands in its t",
    ]


def test_the_table_of_questions(tmp_path):
    content = FOUR + "F,9\nF,\n,1\n"
    manifest = made(tmp_path, content, question=OPTIONS + "dropped = [9]").manifest
    assert manifest["by_question"]["q1"] == {
        "n": 5,
        "missing": {"9": 1, "blank": 1},
        "shares": {"1": 80.0, "2": 20.0},
    }
    assert "1: 80, 2: 20" in summary(manifest)


def test_strict_makes_flags_errors(tmp_path):
    made(tmp_path, FOUR.replace("F", "M"))
    own = ["--codebook", str(tmp_path / "own.toml"), "--input", str(tmp_path / "a.csv")]
    refused = r"--strict: the survey has flags \(2\), such as gender: all"
    with pytest.raises(InputError, match=refused):
        main(["--source", "table", "--output", str(tmp_path / "d"), "--strict", *own])
    assert not (tmp_path / "d").exists()
