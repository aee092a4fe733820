"""The authors' data/eval. Their data/train: test_release_train.py."""

import hashlib
import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_reference import option_distribution, option_log_likelihoods

from ace_jax.errors import InputError
from ace_jax.language_model import LanguageModel
from ace_jax.prompts.encode import PromptStyle, render_cells
from ace_jax.recipe import load_config
from ace_jax.survey.dataset import read_dataset, write_dataset
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.readers.release_eval import (
    LEVELS,
    is_release_eval,
    read_eval,
    shares,
)

TRUST = {str(code): str(code) for code in range(11)} | {"0": "0, No trust at all"}
YES_NO = {"1": "Yes", "2": "No"}
NAMES = [attribute.name for attribute in ATTRIBUTES]


def cell(
    question_id="Q1", options=YES_NO, p_real=None, n=20, category="wvs_all", text="Why?", **persona
):
    """A cell of the eval files, half of it on the first option."""
    first, *_, last = options
    return {
        "question_id": question_id,
        "question_text": text,
        "category": category,
        "options": options,
        "demographics": (persona or {"gender": "Female"}) | {"country": "Egypt"},
        "p_real": {first: 0.5, last: 0.5} if p_real is None else p_real,
        "sample_count": n,
    }


def put(directory, slug, cells, granularity=1, combination="gender", category="wvs_all"):
    folder = directory / slug / f"{granularity}_attributes" / combination
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{category}_real.json"
    path.write_text(cells if isinstance(cells, str) else json.dumps(cells), encoding="utf-8")
    return path


def put_everyone(directory, slug="japan", seed=0, question_id="v11", category="environment"):
    """Every finest persona of a country, in the order and with the keys of the ISSP files."""
    draw = np.random.default_rng(seed)
    cells = []
    for levels in product(*(LEVELS[name] for name in NAMES)):
        counts = draw.integers(0, 9, len(TRUST))
        p_real = {code: float(count / counts.sum()) for code, count in zip(TRUST, counts, strict=1)}
        persona = dict(reversed(list(zip(NAMES, levels, strict=True))))
        made = cell(question_id, TRUST, p_real, int(counts.sum()), category, "Whom?", **persona)
        cells.append(made | {"aggregated_from": 1, "attributes_used": NAMES})
    put(directory, slug, cells, 4, "_".join(NAMES), category)
    return cells


def refused(read, message):
    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)


def test_the_two_kinds_of_files_become_cells(tmp_path):
    put(tmp_path, "egypt", [cell(n=7), cell(gender="Male", p_real={"2": 1.0})])
    put(tmp_path, "egypt", [cell(education="No_College")], combination="education")
    put_everyone(tmp_path)
    assert is_release_eval(tmp_path)
    dataset = read_eval(tmp_path)
    assert dataset.questions.to_dict("records") == [
        {
            "source": "release:wvs_all",
            "question_id": "wvs_all:Q1",
            "topic": "wvs_all",
            "text": "Why?",
            "option_codes": [1, 2],
            "option_labels": ["Yes", "No"],
            "ordinal": True,
        },
        {
            "source": "release:environment",
            "question_id": "environment:v11",
            "topic": "environment",
            "text": "Whom?",
            "option_codes": list(range(11)),
            "option_labels": list(TRUST.values()),
            "ordinal": True,
        },
    ]
    education, female, male = dataset.cells[:3].to_dict("records")
    assert education["education"] == "Not College Educated"
    assert all(pd.isna(education[name]) for name in NAMES if name != "education")
    assert (female["country"], female["source"]) == ("EGY", "release:wvs_all")
    assert (female["granularity"], female["n"], female["effective_n"]) == (1, 7, 7.0)
    np.testing.assert_array_equal(female["p"], [0.5, 0.5])
    np.testing.assert_array_equal(male["p"], [0.0, 1.0])
    finest = dataset.cells[3:]
    assert set(finest["country"]) == {"JPN"} and set(finest["granularity"]) == {4}
    assert finest["n"].dtype == np.int64 and finest["effective_n"].dtype == np.float64
    assert finest["marital_status"].value_counts().to_dict() == {"Married": 8, "Not Married": 8}


@pytest.mark.parametrize("everyone", [True, False])
def test_what_is_read_is_written_and_read_back_unchanged(tmp_path, everyone):
    put(tmp_path / "eval", "egypt", [cell(p_real={"1": 1 / 3, "2": 2 / 3}, n=3)])
    if everyone:
        put_everyone(tmp_path / "eval")
    dataset = read_eval(tmp_path / "eval")
    write_dataset(dataset, tmp_path / "dataset")
    back = read_dataset(tmp_path / "dataset")
    assert back.manifest == dataset.manifest
    assert back.attributes == dataset.attributes == ATTRIBUTES
    assert back.questions.to_dict("records") == dataset.questions.to_dict("records")
    pd.testing.assert_frame_equal(back.cells, dataset.cells, check_exact=True)


def test_the_levels_are_those_of_the_personas():
    assert {name: tuple(levels.values()) for name, levels in LEVELS.items()} == {
        attribute.name: attribute.levels for attribute in ATTRIBUTES
    }


def test_the_manifest_counts_and_hashes(tmp_path):
    files = [
        put(
            tmp_path / "eval",
            "chile",
            [
                cell("Q1", n=9, p_real={"1": 1 / 3, "2": 2 / 3}),
                cell("Q2", p_real={"1": 0.0, "2": 0.0}),
                cell("Q3", p_real={}, n=0),
                cell("Q4", n=10, p_real={"1": 0.25, "2": 0.75}),
            ],
        ),
        put(tmp_path / "eval", "egypt", [cell("Q1")]),
    ]
    manifest = read_eval(tmp_path / "eval").manifest
    by_granularity = manifest["counts"].pop("granularity")
    assert by_granularity["1"] == {"cells": 3, "cells_min_n_10": 2, "pairs_min_n_10": 0}
    assert manifest["counts"] == {
        "questions": 2,
        "cells": 3,
        "cells_without_answers": 2,
    }
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tmp_path / 'eval')}\n"
        for path in files
    ]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert manifest["inputs"] == [{"name": "eval", "files": 2, "sha256": digest}]


@given(st.lists(st.integers(0, 400), min_size=2, max_size=11).filter(any))
def test_whole_counts_survive(counts):
    options = tuple(map(str, range(len(counts))))
    given_shares = dict(zip(options, np.array(counts) / sum(counts), strict=True))
    read = shares(json.loads(json.dumps(given_shares)), options)
    np.testing.assert_allclose(np.array(read) * sum(counts), counts, rtol=0, atol=1e-9)
    assert abs(sum(read) - 1) < 1e-12


def test_countries_that_word_a_question_otherwise_are_kept_apart(tmp_path):
    put(tmp_path, "egypt", [cell(text="Why?")])
    put(tmp_path, "ethiopia", [cell(text="Wherefore?")])
    put(tmp_path, "nigeria", [cell(text="Why?")])
    put(tmp_path, "russia", [cell(text="Why?", options={"2": "No", "1": "Yes"})])
    put(tmp_path, "united_states", [cell(text="Wherefore?")])
    dataset = read_eval(tmp_path)
    assert dict(zip(dataset.cells["country"], dataset.cells["question_id"], strict=True)) == {
        "EGY": "wvs_all:Q1",
        "ETH": "wvs_all:Q1@ETH",
        "NGA": "wvs_all:Q1",
        "RUS": "wvs_all:Q1@RUS",
        "USA": "wvs_all:Q1@ETH",
    }
    assert dataset.manifest["rules"]["worded_otherwise"] == ["wvs_all:Q1@ETH", "wvs_all:Q1@RUS"]
    assert dataset.questions["option_codes"].tolist() == [[1, 2], [1, 2], [2, 1]]


def test_a_question_id_is_one_question_in_each_category(tmp_path):
    put(tmp_path, "japan", [cell("v5", category="religion")], category="religion")
    put(tmp_path, "japan", [cell("v5", category="health", text="How?")], category="health")
    assert read_eval(tmp_path).questions["question_id"].tolist() == ["health:v5", "religion:v5"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Born in [COUNTRY]?", "Born in [COUNTRY]?"),
        ("your [Country] ", "your [COUNTRY]"),
        ("solve [COUNTRY'S] problems", "solve [COUNTRY]'s problems"),
        ("truly [NATIONALITY], in [COUNTRY NATIONALITY]", None),
    ],
)
def test_the_placeholder_of_the_country_is_made_one(tmp_path, text, normal):
    put(tmp_path, "japan", [cell(text=text, options={"1": "Leave [country]", "2": "Stay"})])
    (question,) = read_eval(tmp_path).questions.to_dict("records")
    assert question["text"] == (normal or text)
    assert question["option_labels"] == ["Leave [COUNTRY]", "Stay"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": None}, "question_id is None, expected a text"),
        ({"options": ["Yes"]}, r"options is \['Yes'\], expected an object"),
        ({"options": {"1": "Yes"}}, r"options is \('1',\), expected two or more"),
        (
            {"options": {"1": "Yes", "01": "No"}},
            r"options is \('1', '1'\), expected",
        ),
        ({"options": {"a": "Yes", "b": "No"}}, "an option is 'a', expected a whole number"),
        ({"options": {"1": "Yes", "2": None}}, "2 is None, expected a text"),
        ({"demographics": {"gender": "Woman"}}, "gender is 'Woman', expected Male or Female"),
        ({"demographics": {"education": 1}}, "education is 1, expected College or No_College"),
        (
            {"demographics": {"age": "Old"}},
            "age is 'Old', expected no such key",
        ),
        ({"demographics": {}}, "demographics is .*, expected as many as 1_attributes says"),
        (
            {"demographics": {"gender": "Male", "residence": "Urban"}},
            "demographics is .*, expected as many as 1_attributes says",
        ),
        ({"p_real": {"1": 0.5, "3": 0.5}}, "p_real of option 3 is 0.5, expected an option's share"),
        (
            {"p_real": {"1": 1.5, "2": -0.5}},
            "p_real of option 2 is -0.5, expected an option",
        ),
        ({"p_real": {"1": float("nan")}}, "option 1 is nan, expected"),
        ({"p_real": {"1": float("inf")}}, "option 1 is inf, expected"),
        ({"p_real": {"1": "0.5"}}, "option 1 is '0.5', expected"),
        ({"p_real": {"1": True}}, "option 1 is True, expected"),
        ({"p_real": {"1": 0.5, "2": 0.498}}, "the sum of p_real is 0.998, expected 1"),
        ({"sample_count": 2.5}, "sample_count is 2.5, expected a whole number"),
        ({"sample_count": -1}, "sample_count is -1, expected the number of respondents"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_cells_are_refused_with_their_place(tmp_path, change, message):
    path = put(tmp_path, "egypt", [cell(gender="Male"), cell() | change])
    refused(lambda: read_eval(tmp_path), rf"^{path}, cell 2: .*{message}")


@pytest.mark.parametrize("key", [key for key in cell() if key != "p_real"] + ["p_real"])
def test_cells_that_lack_a_key_are_refused(tmp_path, key):
    lacking = cell()
    del lacking[key]
    path = put(tmp_path, "egypt", [lacking])
    refused(lambda: read_eval(tmp_path), rf"^{path}, cell 1: the key {key} is missing; add it")


def test_cells_that_repeat_or_contradict_others_are_refused(tmp_path):
    put(tmp_path, "egypt", [cell(), cell()])
    message = "cell 2: wvs_all:Q1 is there before for the same persona"
    refused(lambda: read_eval(tmp_path), message)
    put(tmp_path, "egypt", [cell(), cell(gender="Male", text="How?")])
    message = "cell 2: wvs_all:Q1 has another text or other options than"
    refused(lambda: read_eval(tmp_path), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", r"real\.json is not JSON in UTF-8 \(.* line 1 column 3 .*\); correct it"),
        ("", r"real\.json is not JSON"),
        ("{}", r"real\.json is not a list of cells; give it as the authors do"),
        ("[3]", r"real\.json, cell 1: it is 3, expected an object with the release's keys"),
        ("[]", r"nobody answered any of its 0 cells"),
        (json.dumps([cell(n=0)]), r"nobody answered any of its 1 cells"),
    ],
)
def test_files_without_cells_are_refused(tmp_path, content, message):
    put(tmp_path, "egypt", content)
    refused(lambda: read_eval(tmp_path), message)


def test_other_bytes_than_utf_8_are_refused(tmp_path):
    path = put(tmp_path, "egypt", "[]")
    path.write_bytes(json.dumps([cell(text="Où ?")], ensure_ascii=False).encode("latin-1"))
    refused(lambda: read_eval(tmp_path), r"real\.json is not JSON in UTF-8 \(.* byte 0xf9")


def test_a_directory_by_another_name_or_without_cells_is_refused(tmp_path):
    assert not is_release_eval(tmp_path) and not is_release_eval(tmp_path / "none")
    refused(lambda: read_eval(tmp_path), r"has no COUNTRY/\{1,2,3,4\}_attributes/ATTRIBUTES/")
    put(tmp_path, "egipt", [cell()])
    refused(lambda: read_eval(tmp_path), "'egipt' is not known; did you mean egypt")
    put(tmp_path, "atlantis", [cell()])
    refused(lambda: read_eval(tmp_path), "'atlantis' is not known; did you mean ")


def test_a_byte_order_mark_is_no_matter(tmp_path):
    path = put(tmp_path, "egypt", [cell()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_eval(tmp_path).cells) == 1


def test_cells_are_scored_by_the_authors_own_labels(tmp_path, tiny_checkpoint, tiny_torch, mesh):
    """Each option of a file is verbalised by its key there, 0..10, as their code does it."""
    cells = put_everyone(tmp_path)
    style = PromptStyle.of("question_first", "code")
    model = LanguageModel.from_pretrained(tiny_checkpoint, prompt=style, mesh=mesh)
    dataset = read_eval(tmp_path)
    predictions = model.score(dataset, split="all").head(3)
    for _, row in predictions.iterrows():
        texts = render_cells(row.to_frame().T, dataset, style)
        lines = [f"{code}. {label}" for code, label in cells[0]["options"].items()]
        assert "\n".join(lines) in texts[0].text
        ids = model.checkpoint.tokenizer(texts[0].text)["input_ids"]
        codes = [model.checkpoint.tokenizer.encode(c, add_special_tokens=False) for c in TRUST]
        with torch.no_grad():
            expected = option_distribution(option_log_likelihoods(tiny_torch, ids, codes))
        np.testing.assert_allclose(row["p_model"], expected, atol=1e-6)
    assert load_config("release").prompt.option_style == "code"
