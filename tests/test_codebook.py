import re
from collections import Counter

import pytest

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Question, Threshold, describe, with_rules
from ace_jax.survey.codebook_file import BUILTIN, KINDS, read_codebook
from ace_jax.survey.personas import ATTRIBUTES

GOOD = """
source = "mine"
citation = "Us, 2020."
country = "USA"

[[attributes]]
name = "gender"
column = "sex"
levels = ["Male", "Female"]
codes = [[1], [2]]
dropped = [-1]

[[attributes]]
name = "education"
column = "degree"
levels = ["College Educated", "Not College Educated"]
threshold = { name = "college", at_least = 3, level = "College Educated" }

[scales]
agreement = [[1, "Disagree"], [2, "Agree"]]

[[questions]]
column = "q1"
topic = "Work"
text = "Is work important?"
options = "agreement"
dropped = [9]
"""


def written(tmp_path, text):
    path = tmp_path / "codebook.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_codebook_is_read(tmp_path):
    codebook = read_codebook(written(tmp_path, GOOD))
    gender, education = codebook.recodes
    assert gender.attribute.levels == ("Male", "Female")
    assert (gender.by, gender.dropped) == ({1: "Male", 2: "Female"}, (-1,))
    assert education.by == Threshold("college", 3, "College Educated")
    assert codebook.questions == (
        Question(
            *("mine", "q1", "Work", "Is work important?", (1, 2), ("Disagree", "Agree"), True),
            dropped=(9,),
        ),
    )


def test_the_example_has_every_key():
    codebook = read_codebook(BUILTIN / "example.toml")
    assert [question.question_id for question in codebook.questions] == ["q1", "trust"]
    text = (BUILTIN / "example.toml").read_text(encoding="utf-8")
    assert [key for key in KINDS if not re.search(rf"\b{key}\b", text)] == []


def test_a_rule_moves_a_threshold_and_is_described(tmp_path):
    codebook = read_codebook(written(tmp_path, GOOD))
    moved = describe(with_rules(codebook, {"education.college": 4.0}))["attributes"]
    assert moved["education"]["levels"] == {
        "College Educated": ">= 4",
        "Not College Educated": "< 4",
    }
    assert moved["gender"] == describe(codebook)["attributes"]["gender"]


def test_codes_can_be_missing_everywhere_merged_and_called_by_other_names(tmp_path):
    everywhere = (
        'country_column = "land"\ncountries = ["USA"]\nmissing = [[-3, "?"], [-3, "None"]]\n'
    )
    text = GOOD.replace('country = "USA"\n', everywhere) + (
        'merged = [[0, 1]]\nlabels = [[9, "Hard to say"]]\npaper = false\n'
    )
    codebook = read_codebook(written(tmp_path, text))
    assert (codebook.missing, codebook.countries) == ((-3,), ("USA",))
    assert codebook.recodes[0].dropped == (-1,)
    (question,) = codebook.questions
    assert (question.dropped, question.merged, question.paper) == ((9,), ((0, 1),), False)
    own = ((1, "Disagree"), (2, "Agree"), (9, "Hard to say"))
    assert codebook.labels["q1"] == (*own, (-3, "?"), (-3, "None"))
    rules = describe(codebook)
    assert rules["attributes"]["gender"]["dropped_codes"] == [-1]
    assert rules["dropped_codes"] == {"q1": [9]}
    assert (rules["missing_codes"], rules["merged_codes"]) == ([-3], {"q1": [[0, 1]]})


def test_include_and_exclude_choose_questions(tmp_path):
    second = GOOD[GOOD.index("[[questions]]") :].replace('"q1"', '"q2_text"')
    top = 'include = ["q*"]\nexclude = ["*_text"]\nid = "who"'
    text = GOOD.replace('source = "mine"', f'source = "mine"\n{top}') + second
    codebook = read_codebook(written(tmp_path, text))
    assert [question.question_id for question in codebook.questions] == ["q1"]
    assert (codebook.id_column, "q2_text" in codebook.labels) == ("who", False)


def test_other_codes_than_numbers_are_on_the_record(tmp_path):
    text = GOOD.replace('"agreement"', '[["n", "No"], ["y", "Yes"]]')
    text = text.replace("threshold = ", "bins = [0, 3, 5] #").replace(
        "[[1], [2]]", '["1-2", "3-4"]'
    )
    rules = describe(read_codebook(written(tmp_path, text)))
    levels = {name: its["levels"] for name, its in rules["attributes"].items()}
    assert levels == {
        "gender": {"Male": [1, 2], "Female": [3, 4]},
        "education": {"College Educated": "0 to 3", "Not College Educated": "3 to 5"},
    }
    assert rules["written_codes"] == {"q1": ["n", "y"]}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_rule_is_a_finite_number(tmp_path, number):
    with pytest.raises(InputError, match=r"--rule education\.college: (nan|inf) is no code"):
        with_rules(read_codebook(written(tmp_path, GOOD)), {"education.college": number})


def test_an_unknown_rule_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gender\.x.*it has education\.college"):
        with_rules(read_codebook(written(tmp_path, GOOD)), {"gender.x": 1.0})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'options = "agreement"',
            'options = [[1, "Yes"]]',
            r"question q1 has the option codes \(1,\)",
        ),
        (
            'options = "agreement"',
            'options = [[1, "A"], [1, "B"]]',
            "at least two codes, all different",
        ),
        ('options = "agreement"', "options = [1, 2]", r'`options` is .*list of \[code, "label"\]'),
        ('options = "agreement"', 'options = "trust"', "scale 'trust'"),
        ('topic = "Work"\n', "", "question q1 lacks `topic`"),
        ("dropped = [9]", "droped = [9]", "unknown key `droped`"),
        ('column = "q1"', 'column = "gender"', "name gender is used twice"),
        ('column = "q1"', 'column = "weight"', "name weight is used twice, or reserved"),
        ("codes = [[1], [2]]", "codes = [[1], [1]]", "a code to one level only"),
        ("codes = [[1], [2]]", "codes = [[1]]", "give each level its own list"),
        ("codes = [[1], [2]]", "", "either `codes` or `threshold`"),
        ('["Male", "Female"]', '["Male"]', "two or more"),
        ('level = "College Educated" }', 'level = "PhD" }', "the name of one of them"),
        ('country = "USA"\n', "", "either `country` or `country_column`"),
        ('source = "mine"', "source = ", "is not TOML"),
        ('"agreement"', '[[1.9, "No"], [true, "Yes"]]', "`options` is .* whole numbers or texts"),
        ('"agreement"', '[[1, "No"], [2, ""]]', r'list of \[code, "label"\]'),
        ('"agreement"', '[[1, "No"], [2, ["Yes"]]]', r'list of \[code, "label"\]'),
        ('"agreement"', '[[1, "No"], [2, " no"]]', "says 'no' twice; tell them apart"),
        ('"agreement"', '[[1, "No"], ["1", "Yes"]]', r"codes \(1, '1'\) and labels .* all diff"),
        ('"agreement"', str([[n, str(n)] for n in range(10, 110)]), "at most 99"),
        ("dropped = [9]", "dropped = [2]", "q1: the code 2 counts, and is also in `dropped`"),
        ("dropped = [9]", "merged = [[2, 1]]", "q1: the code 2 counts, and is also in"),
        ("dropped = [9]", "merged = [[3, 4]]", "`merged` names 4, which is no option"),
        ("dropped = [-1]", "dropped = ['1']", "gender: the code 1 counts, and is also in"),
        ('source = "mine"', 'source = "m"\nmissing = [[1, "?"]]', "gender: the code 1 counts"),
        ('"Is work important?"', '"In [CITY]?"', r"q1: \[CITY\] is no placeholder; write \[COU"),
        ('"Is work important?"', '"In [Country]?"', r"q1: \[Country\] is no placeholder"),
        ('"USA"', '"ZZZ"', "country: 'ZZZ' is not known"),
        ('name = "gender"', 'name = "options"', "'options': prompts and tables use this name"),
        ("codes = [[1], [2]]", 'codes = ["1-3", "3-9"]', "a code to one level only"),
        ("codes = [[1], [2]]", 'codes = ["1-3", "9-4"]', "the range '9-4'"),
        ("codes = [[1], [2]]", "bins = [1, 2]", "ascending numbers, one more than"),
        ("codes = [[1], [2]]", "bins = [1, 3, 2]", "ascending numbers, one more than"),
        ('source = "mine"', 'source = "m"\nencoding = "klingon"', "give the name of one, such as"),
        ('source = "mine"', 'source = "m"\ndecimal = ";"', "give a point or a comma"),
        ('source = "mine"', 'source = "m"\ninclude = ["x*"]', "`include`: no question is called"),
        ('source = "mine"', 'source = "m"\nexclude = ["*"]', "leave no question"),
    ],
)
def test_a_broken_codebook_is_refused(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(InputError, match=message):
        read_codebook(written(tmp_path, GOOD.replace(old, new)))


def test_a_codebook_without_questions_is_refused(tmp_path):
    text = GOOD[: GOOD.index("[[attributes]]")] + "attributes = []\nquestions = []\n"
    with pytest.raises(InputError, match=r"`attributes` is \[\]; give one table or more"):
        read_codebook(written(tmp_path, text))


def with_table(tmp_path, rows, header="id,text,options,missing"):
    (tmp_path / "q.csv").write_text(f"{header}\n{rows}\n", encoding="utf-8")
    top = GOOD[: GOOD.index("[[questions]]")].replace("source =", 'questions = "q.csv"\nsource =')
    return read_codebook(written(tmp_path, top))


def test_questions_can_be_a_table(tmp_path):
    rows = 'q1,Is work important?,agreement,9\nq2,"Well, is it?",y=Yes; n=No = never ;0=?,"-1; NAP"'
    first, second = with_table(tmp_path, rows).questions
    assert first == read_codebook(written(tmp_path, GOOD.replace('"Work"', '"mine"'))).questions[0]
    assert (second.text, second.written) == ("Well, is it?", ("y", "n", 0))
    assert second.option_labels == ("Yes", "No = never", "?")
    assert (second.topic, second.dropped) == ("mine", (-1, "NAP"))


def test_a_table_of_questions_lies_beside_its_codebook(tmp_path):
    (tmp_path / "inner").mkdir()
    with_table(tmp_path, "q1,Is it?,1=No; 2=Yes,")
    path = tmp_path / "inner" / "codebook.toml"
    before = next(tmp_path.glob("*.toml")).read_text(encoding="utf-8")
    path.write_text(before.replace('"q.csv"', '"../q.csv"'), encoding="utf-8")
    with pytest.raises(InputError, match="a file beside the codebook, without a directory"):
        read_codebook(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("q1,Is it?,1=No; 2=Yes,\nq2,Is it?,1=No; Yes,", r"q\.csv: row 3: .*`options` is"),
        ("q1,Is it?,1=No; 1=Yes,", r"q\.csv: row 2: question q1 has the option codes \(1, 1\)"),
        ("q1,Is it?,1=No; 2=no,", "row 2: question q1 says 'no' twice"),
        ("q1,Is it?,No; Yes,", "row 2: question q1 uses the scale 'No; Yes', which"),
        ("q1,Is it?,,", "row 2: question q1 uses the scale '', which"),
        ("q1,,1=No; 2=Yes,", "row 2: question q1: `text` is ''; give a text"),
        ("q1,In [CITY]?,1=No; 2=Yes,", r"row 2: question q1: \[CITY\] is no placeholder"),
        ("q1,Is it?,1=No; 2=Yes,2", "row 2: question q1: the code 2 counts, and is also in"),
        ("sex,Is it?,1=No; 2=Yes\n", r"q\.csv: row 2: has 3 fields, the header 4"),
        ("q1,Is it?,1=No; 2=Yes,\nq1,Is it?,1=No; 2=Yes,", "the name q1 is used twice"),
    ],
)
def test_a_broken_table_of_questions_is_refused_by_its_row(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        with_table(tmp_path, rows)


def test_a_table_of_questions_has_known_columns(tmp_path):
    with pytest.raises(InputError, match=r"q\.csv: row 2: the column order is not known"):
        with_table(tmp_path, "q1,Is it?,1=No; 2=Yes,1", "id,text,options,order")
    with pytest.raises(InputError, match=r"q\.csv: has no column 'id'; it has text,options"):
        with_table(tmp_path, '"text,options"', '"text,options"')


def test_a_missing_codebook_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the codebook .*No such file"):
        read_codebook(tmp_path / "none.toml")


def test_labels_are_as_many_as_codes():
    with pytest.raises(InputError, match=r"codes \(1, 2\) and labels \('Yes',\)"):
        Question("mine", "q1", "Work", "?", (1, 2), ("Yes",), True)


def test_the_gss_codebook_is_the_paper_s_attributes_and_29_questions():
    codebook = read_codebook(BUILTIN / "gss2018.toml")
    assert codebook.attributes == ATTRIBUTES
    assert Counter(question.topic for question in codebook.questions) == {
        "National spending": 18,
        "Politics": 2,
        "Media": 1,
        "Religion": 1,
        "Abortion": 7,
    }
    sizes = {question.question_id: len(question.option_codes) for question in codebook.questions}
    assert (sizes["polviews"], sizes["partyid"], sizes["news"], sizes["relactiv"]) == (7, 7, 5, 10)
    assert {question.question_id for question in codebook.questions if not question.ordinal} == {
        name for name, size in sizes.items() if size == 2
    }
    assert len({question.text for question in codebook.questions}) == 29
