"""Files of questions and personas."""

import pytest

from ace_jax.errors import InputError
from ace_jax.prompts.encode import Question
from ace_jax.prompts.questions import read_personas, read_questions

TOML = """
[[questions]]
id = "a"
text = "Well?"
options = ["Yes", "No"]
topic = "Mood"
[[questions]]
text = "How much?"
options = [[0, "None"], [5, "Some"], [10, "All"]]
"""
EXPECTED = [
    Question("Well?", ("Yes", "No"), "a", "Mood"),
    Question("How much?", ("None", "Some", "All"), codes=(0, 5, 10)),
]


def test_toml(tmp_path):
    (tmp_path / "q.toml").write_text(TOML)
    assert read_questions(tmp_path / "q.toml") == EXPECTED


def test_csv(tmp_path):
    (tmp_path / "q.csv").write_text(
        'id,text,options,topic\na,Well?,Yes|No,Mood\n,"Or, not?",A | B,\n'
    )
    assert read_questions(tmp_path / "q.csv") == [
        EXPECTED[0],
        Question("Or, not?", ("A", "B")),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text,options\na,Well?,Yes|No\nb,Hm?,Yes\n", "row 3: question 'b': needs two options"),
        ("id,text,options\na,,Yes|No\n", "row 2: .*has no text"),
        ("id,text,options\na,W?,Yes|No\na,V?,Yes|No\n", "row 3: question 'a': is there twice"),
        ("id,text,options\na,W?,Yes|Yes\n", "row 2: question 'a': gives an option twice"),
        ("id,text\na,W?\n", "has no column 'options'"),
        ("text,options,lang\nW?,Yes|No,de\n", "row 2: the field 'lang' is not known"),
        ("text,options\n", "has no rows"),
        ("text,options\nW?,Yes|No,more\n", "row 2: has 3 fields, the header 2"),
        ("text,options,text\nW?,A|B,V?\n", "has the column 'text' twice"),
        ('text,options\n"W?,Yes|No\n', "cannot be read as CSV"),
    ],
)
def test_a_malformed_row_of_a_csv_is_named(content, message, tmp_path):
    (tmp_path / "q.csv").write_text(content)
    with pytest.raises(InputError, match=rf"q\.csv: {message}"):
        read_questions(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[questions]]\ntext = 'W?'\noptions = ['A', 2]", "number 1: text and options are to be"),
        ("[[questions]]\ntext = 'W?'\noptions = [[1.5, 'A'], [2, 'B']]", "codes of options are to"),
        ("[[questions]]\ntext = 'W?'\noptions = [[1, 'A'], [1, 'B']]", "give each option its own"),
        ("[[questions]]\ntext = 3\noptions = ['A', 'B']", "text and options are to be texts"),
        ("[[questions]]\ntext = 'W?'\noptions = 3", "number 1: "),
        ("questions = 3", "has no questions"),
        ("questions = [3]", "number 1: it is not known"),
        ("a = [", "cannot be read as TOML"),
    ],
)
def test_a_malformed_table_of_a_toml_is_named(content, message, tmp_path):
    (tmp_path / "q.toml").write_text(content)
    with pytest.raises(InputError, match=rf"q\.toml: .*{message}"):
        read_questions(tmp_path / "q.toml")


def test_personas(tmp_path):
    (tmp_path / "p.csv").write_text("country,gender, residence\nDEU,Female,\n,Male, Rural\n")
    assert read_personas(tmp_path / "p.csv") == [
        {"country": "DEU", "gender": "Female"},
        {"gender": "Male", "residence": "Rural"},
    ]
