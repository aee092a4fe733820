import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.split import HeldOut, Split

GSS = read_dataset("gss2018")
IDS = list(GSS.questions["question_id"])
# Three countries, the questions in another order, and a level and topics that need care.
SEVERAL = replace(
    GSS,
    questions=GSS.questions.iloc[::-1].replace(
        {"topic": {"Media": "News, radio", "Religion": "A+B"}}
    ),
    cells=pd.concat([GSS.cells.assign(country=code) for code in ("USA", "EGY", "ETH")]),
)
TOPIC = SEVERAL.questions.set_index("question_id")["topic"]


def held_out(spec, seed=0, dataset=SEVERAL):
    return Split(spec, seed).held_out(dataset)


def ranked(names, seed):
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "",
            "question",
            "question:0",
            "question:1",
            "question:nan",
            "question:0.2@",
            "region:0.2",
        ),
        *("fold:3", "fold:0/5", "fold:6/5", "fold:1/1", "none,question:0.2", "country:1.5"),
    ],
)
def test_other_specs_are_refused_with_the_known_ones(spec):
    with pytest.raises(InputError, match=r"data.holdout is '.*'; use none, question:SHARE"):
        held_out(spec)


def test_none_holds_nothing_out():
    assert held_out("none") == HeldOut()
    assert not HeldOut().cells(GSS).any()
    assert HeldOut().describe() == "nothing held out"


def test_a_share_is_the_lowest_hashes_whatever_the_order_of_the_questions():
    known = tuple(sorted(ranked(IDS, 7)[:6]))
    assert held_out("question:0.2", 7) == held_out("question:0.2", 7, GSS) == HeldOut(known)
    assert held_out("question:0.2@7", 8) == HeldOut(known)
    assert held_out("question:0.2", 8) != HeldOut(known)
    assert len(held_out("question:0.001").questions) == 1
    assert held_out("country:0.3", 1).countries == (ranked(("USA", "EGY", "ETH"), 1)[0],)


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="holds out all 29; use a smaller share"):
        held_out("question:0.999")


def test_folds_divide_the_questions():
    folds = [held_out(f"fold:{number}/5", 3).questions for number in range(1, 6)]
    assert sorted(name for fold in folds for name in fold) == sorted(IDS)
    assert sorted(map(len, folds)) == [5, 6, 6, 6, 6]
    assert set(folds[2]) == set(ranked(IDS, 3)[2::5])
    assert held_out("fold:3/5@3", 9).questions == folds[2]
    with pytest.raises(InputError, match="there are 29 questions; use as many folds or fewer"):
        held_out("fold:1/30")


def test_questions_topics_and_countries_are_named():
    assert held_out("question:natspac+abany") == HeldOut(("abany", "natspac"))
    assert held_out("country:ETH+EGY") == HeldOut(countries=("EGY", "ETH"))
    odd = held_out("topic:A+B+News, radio").questions
    assert set(odd) == set(TOPIC.index[TOPIC.isin(["A+B", "News, radio"])])
    ids = SEVERAL.cells["question_id"]
    np.testing.assert_array_equal(HeldOut(odd).cells(SEVERAL), ids.isin(odd))


def test_a_cell_is_held_out_if_any_part_says_so():
    found = held_out("question:natspac,country:EGY,persona:paper")
    cells = SEVERAL.cells
    persona = cells["gender"] + "/" + cells["education"] + "/" + cells["residence"]
    persona = persona + "/" + cells["marital_status"]
    expected = (
        (cells["question_id"] == "natspac")
        | (cells["country"] == "EGY")
        | (persona == "Female/College Educated/Urban/Married")
        | (persona == "Male/Not College Educated/Rural/Not Married")
    )
    np.testing.assert_array_equal(found.cells(SEVERAL), expected)
    assert found.describe() == (
        "1 question held out: natspac; 1 country held out: EGY; 2 personas held out: "
        "Female/College Educated/Urban/Married, Male/Not College Educated/Rural/Not Married"
    )


def test_faces_of_personas_hold_out_pairs_and_the_papers_personas_none():
    face = held_out("persona:*/*/Urban/Married+Male/*/Rural/Not Married", dataset=GSS)
    assert len(face.personas) == 6
    cells = GSS.cells[face.cells(GSS)]
    pairs = toggle_pairs(cells, GSS.attributes, min_n=10)
    assert set(pairs["attribute"]) == {"gender", "education"}
    paper = held_out("persona:paper", dataset=GSS)
    with pytest.raises(InputError, match="no pair"):
        toggle_pairs(GSS.cells[paper.cells(GSS)], GSS.attributes, min_n=10)
    with pytest.raises(InputError, match=r"the data have no 'Urban/\*'"):
        held_out("persona:Urban/*")


def test_personas_are_held_out_where_all_is_named():
    one = held_out("persona:Female/College Educated/Urban/Married", dataset=GSS)
    assert one.cells(GSS).sum() == len(IDS)


def test_the_ids_apply_to_other_data_without_a_draw():
    ids = held_out("question:0.2,country:EGY")
    few = replace(GSS, cells=GSS.cells[GSS.cells["question_id"].isin([*IDS[:3], ids.questions[0]])])
    np.testing.assert_array_equal(ids.cells(few), few.cells["question_id"].isin(ids.questions))


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("question:natspak", "natspac"),
        ("topic:Politic", "Politics"),
        ("country:EGX", "EGY"),
        ("persona:Female", "Female/"),
        ("topic:", "A"),
    ],
)
def test_a_name_that_the_dataset_lacks_is_refused_with_the_nearest(spec, near):
    unit, _, name = spec.partition(":")
    message = f"{spec}: the data have no '{name}'; the nearest {unit} of \\d+ is {near}"
    with pytest.raises(InputError, match=message):
        held_out(spec)


def test_splits_are_made_without_specs():
    assert Split() == Split("none", 0)
    assert Split.questions(0.2, seed=3) == Split("question:0.2", 3)
    assert Split.questions(["a", "b"]) == Split("question:a+b")
    assert Split.questions("ab") == Split("question:ab")


def test_pairs_of_the_authors_file():
    pairs = pd.DataFrame({"question_id": ["a", "b", "a", "c"], "country": [*"XXYY"]})
    out = Split("question:a,country:Y").held_out_of_pairs(pairs)
    assert out.tolist() == [True, False, True, True]
    drawn = Split("question:0.3", 5).held_out_of_pairs(pairs)
    np.testing.assert_array_equal(drawn, pairs["question_id"] == ranked("abc", 5)[0])
    for unit in ("topic", "persona"):
        with pytest.raises(InputError, match=f"names no {unit}; hold out questions or countries"):
            Split(f"{unit}:x").held_out_of_pairs(pairs)
