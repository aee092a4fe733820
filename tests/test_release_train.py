"""The authors' data/train. Their data/eval: test_release_eval.py."""

import json
from itertools import product

import numpy as np
import pytest
from test_release_eval import NAMES, put_everyone, refused

from ace_jax.survey.pairs import mode, toggle_pairs
from ace_jax.survey.readers.release_eval import read_eval
from ace_jax.survey.readers.release_train import is_release_train, read_train


def group(text=" You are A.\nWhy?\nAnswer:\n\n ", p_real=None, mode_option=1):
    return {
        "prompt_text": text,
        "p_real": {"1": 0.75, "2": 0.25} if p_real is None else p_real,
        "mode_option": mode_option,
    }


def pair(zero=None, one=None, **others):
    """A line of the training files."""
    return {
        "options": [1, 2],
        "group_A": group() if zero is None else zero,
        "group_B": group("You are B.\nWhy?\nAnswer:") if one is None else one,
    } | others


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_line_becomes_a_pair_of_cells(tmp_path):
    release = read_train(write_lines(tmp_path / "egypt.jsonl", pair(more="is no matter")))
    assert release.texts == [" You are A.\nWhy?\nAnswer:\n", "You are B.\nWhy?\nAnswer:\n"]
    assert release.labels == [("1", "2")] * 2
    assert release.modes == [0, 0]
    for answer in release.answers:
        assert answer.dtype == np.float64
        np.testing.assert_array_equal(answer, [0.75, 0.25])
    (row,) = release.pairs.to_dict("records")
    (question_id,) = {row.pop("question_id")}
    assert len(question_id) == 12
    assert row == {"attribute": "", "cell_0": 0, "cell_1": 1, "country": "EGY", "context": 0}
    assert [release.pairs[name].dtype for name in ("cell_0", "cell_1", "context")] == [np.int64] * 3


def test_what_counts_as_training_data(tmp_path):
    assert not is_release_train(tmp_path) and not is_release_train(tmp_path / "none")
    assert is_release_train(tmp_path / "none.jsonl")
    write_lines(tmp_path / "chile.jsonl", pair())
    assert is_release_train(tmp_path) and is_release_train(tmp_path / "chile.jsonl")
    assert not is_release_train(tmp_path.parent / "gss2018")


@pytest.mark.parametrize(
    ("options", "p_real", "mode_option", "answer", "position"),
    [
        (["0", "1", "2"], {"0": 0.5, "2": 0.5}, "2", [0.5, 0, 0.5], 2),
        ([2.0, 1.0], {"1": 0.6004, "2": 0.3999}, 1.0, [0.3999 / 1.0003, 0.6004 / 1.0003], 1),
        (range(11), {"0": 1, "10": 0}, 0, [1, *[0] * 10], 0),
        (range(11), {"10": 0.0}, 10, [1 / 11] * 11, 10),
        ([1, 2], {}, 1, [0.5, 0.5], 0),
    ],
)
def test_options_and_answers(tmp_path, options, p_real, mode_option, answer, position):
    same = group(p_real=p_real, mode_option=mode_option)
    line = pair(same, same, options=list(options))
    release = read_train(write_lines(tmp_path / "a.jsonl", line))
    assert release.labels == [tuple(str(int(option)) for option in options)]
    np.testing.assert_allclose(release.answers[0], answer, rtol=1e-15)
    assert release.modes == [position]


def test_an_endpoint_is_a_text_with_its_options_answer_and_mode(tmp_path):
    one = pair()["group_B"]
    others = [
        group(mode_option=2),
        group(p_real={"1": 0.5, "2": 0.5}),
        group(p_real={"1": 0.75, "2": 0.25}),
        group(" You are A.\nWhy?\nAnswer:\n"),
    ]
    lines = [pair(zero, one) for zero in others] + [pair(group(), one, options=[1, 2, 3])]
    release = read_train(write_lines(tmp_path / "a.jsonl", *lines))
    assert release.pairs[["cell_0", "cell_1"]].to_numpy().tolist() == [
        [0, 1],
        [2, 1],
        [3, 1],
        [3, 1],
        [4, 5],
    ]
    assert release.pairs["context"].tolist() == [0, 0, 0, 0, 1]


def test_contexts_are_contiguous_in_the_order_of_their_first_pairs(tmp_path):
    def line(zero, one):
        return pair(*(group(f"You are {name}.\n{name[0]}?\n") for name in (zero, one)))

    lines = [line("b1", "b2"), line("a1", "a2"), line("b3", "b4"), line("a3", "a2")]
    release = read_train(write_lines(tmp_path / "a.jsonl", *lines, line("b2", "b3")))
    assert [release.texts[cell][8:10] for cell in release.pairs["cell_0"]] == [
        "b1",
        "b3",
        "b2",
        "a1",
        "a3",
    ]
    assert release.pairs["context"].tolist() == [0, 0, 0, 1, 1]
    assert release.pairs["question_id"].nunique() == 2


def test_the_same_question_has_the_same_id_in_every_country_and_part(tmp_path):
    def line(country, question):
        texts = (f"You are {level} in {country}.\n\n{question}\n" for level in ("A", "B"))
        return pair(*map(group, texts))

    write_lines(tmp_path / "chile.jsonl", line("Chile", "Why?"), line("Chile", "How?"))
    write_lines(tmp_path / "egypt.jsonl", line("Egypt", "How?"), line("Egypt", "Why?"))
    pairs = read_train(tmp_path).pairs
    chile, egypt = (list(ids) for _, ids in pairs.groupby("country")["question_id"])
    assert chile == egypt[::-1] and len(set(chile)) == 2
    assert pairs["context"].tolist() == [0, 1, 2, 3]


def test_prompts_with_no_line_in_common_are_told_apart_as_a_whole(tmp_path):
    def ids(*pairs_of_texts):
        lines = [pair(*map(group, texts)) for texts in pairs_of_texts]
        return read_train(write_lines(tmp_path / "a.jsonl", *lines)).pairs["question_id"].tolist()

    first, second = ids(("A?\n\nYes", "B?\n\nNo"), ("C?\n\nYes", "D?\n\nNo"))
    assert first != second
    assert ids(("B?\n\nNo", "A?\n\nYes")) == [first]


def test_the_lines_own_keys_come_first(tmp_path):
    named = {"country": "Great Britain", "question_id": 17, "attribute": "gender"}
    lines = [pair(**named), pair(country="Sark", question_id=None, attribute=["x"])]
    pairs = read_train(write_lines(tmp_path / "russia.jsonl", *lines, pair())).pairs
    assert pairs["country"].tolist() == ["GBR", "Sark", "RUS"]
    assert pairs["question_id"].tolist()[0] == "17" != pairs["question_id"].tolist()[1]
    assert pairs["attribute"].tolist() == ["gender", "", ""]


def test_of_a_directory_the_concatenated_file_is_read_only_where_it_is_alone(tmp_path):
    write_lines(tmp_path / "all_countries.jsonl", pair(), pair(group("Are you C?\n")))
    assert read_train(tmp_path).pairs["country"].tolist() == ["all_countries"] * 2
    write_lines(tmp_path / "united_states.jsonl", pair())
    write_lines(tmp_path / "germany.jsonl", pair())
    assert read_train(tmp_path).pairs["country"].tolist() == ["DEU", "USA"]


def test_pairs_of_the_eval_cells_and_of_lines_written_from_them_are_the_same(tmp_path):
    put_everyone(tmp_path / "eval")
    put_everyone(tmp_path / "eval", "chile", seed=1)
    dataset = read_eval(tmp_path / "eval")
    pairs = toggle_pairs(dataset.cells, dataset.attributes, min_n=1)
    assert pairs.groupby("context").size().tolist() == [32, 32]

    def half(position):
        row = dataset.cells.iloc[position]
        return group(
            f"You are {' '.join(row[NAMES])} in {row['country']}.\n{row['question_id']}?\n",
            {str(code): share for code, share in enumerate(row["p"]) if share},
            mode(row["p"]),
        )

    lines = [
        pair(half(row.cell_0), half(row.cell_1), options=list(range(11)), attribute=row.attribute)
        for row in pairs.itertuples()
    ]
    mixed = [lines[at] for at in np.random.default_rng(0).permutation(len(lines))]
    release = read_train(write_lines(tmp_path / "all_countries.jsonl", *mixed))
    assert len(release.texts) == len(set(release.texts)) == 2 * 16
    assert release.pairs.groupby("context").size().tolist() == [32, 32]
    assert release.pairs["question_id"].nunique() == 1
    texts = dict(enumerate(release.texts))

    def described(table, names):
        columns = (table["attribute"], table["cell_0"].map(names), table["cell_1"].map(names))
        return sorted(zip(*columns, strict=True))

    written = {position: half(position)["prompt_text"] for position in range(len(dataset.cells))}
    assert described(release.pairs, texts) == described(pairs, written)
    answer = dict(zip(release.texts, release.answers, strict=True))
    for position, text in written.items():
        np.testing.assert_allclose(answer[text], dataset.cells["p"][position], rtol=1e-15)
    # Finest cells of one country name all attributes: what these say of a pair goes without saying.
    of_dataset = list(pairs.columns.drop(["named", "country_1"]))
    assert list(release.pairs.columns) == of_dataset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "1 2"}, "options is '1 2', expected a list"),
        ({"options": [1]}, r"options is \('1',\), expected two or more"),
        ({"options": []}, r"options is \(\), expected two or more"),
        ({"options": [1, "1"]}, r"options is \('1', '1'\), expected two or more, each once"),
        ({"options": [1, "two"]}, "an option is 'two', expected a whole number"),
        ({"options": [1, 1.5]}, "an option is 1.5, expected a whole number"),
        ({"options": [True, 2]}, "an option is True, expected a whole number"),
        ({"group_A": None}, "group_A is None, expected an object"),
        ({"group_B": group(text=3)}, "group_B: prompt_text is 3, expected a text"),
        (
            {"group_B": group(mode_option=3)},
            "group_B: mode_option is '3', expected one of",
        ),
        (
            {"group_A": group(mode_option=None)},
            "group_A: mode_option is None, expected",
        ),
        ({"group_A": group(p_real=[1, 0])}, r"group_A: p_real is \[1, 0\], expected an object"),
        (
            {"group_A": group(p_real={"3": 1})},
            "group_A: p_real of option 3 is ",
        ),
        ({"group_A": group(p_real={"1": -1, "2": 2})}, "option 1 is -1, expected"),
        ({"group_A": group(p_real={"1": float("nan")})}, "option 1 is nan, expected"),
        ({"group_A": group(p_real={"2": float("inf")})}, "option 2 is inf, expected"),
        ({"group_A": group(p_real={"2": None})}, "option 2 is None, expected"),
        ({"group_A": group(p_real={"1": 0.9})}, "the sum of p_real is 0.9, expected 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_lines_are_refused_with_their_number(tmp_path, change, message):
    path = write_lines(tmp_path / "a.jsonl", pair(), pair() | change)
    refused(lambda: read_train(path), rf"^{path}, line 2: .*{message}")


@pytest.mark.parametrize(
    ("where", "key"),
    [
        *((None, key) for key in ("options", "group_A", "group_B")),
        *product(("group_A", "group_B"), ("prompt_text", "p_real", "mode_option")),
    ],
)
def test_lines_that_lack_a_key_are_refused(tmp_path, where, key):
    line = pair()
    del (line[where] if where else line)[key]
    path = write_lines(tmp_path / "a.jsonl", line)
    place = f"{where}: " if where else ""
    refused(lambda: read_train(path), f"^{path}, line 1: {place}the key {key} is missing; add it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.jsonl is empty; give a file with one pair a line"),
        (b"\n \n", r"a\.jsonl is empty"),
        (b"\n{'a': 1}\n", r"a\.jsonl, line 2 is not JSON in UTF-8 \(.*\); correct it"),
        (json.dumps(pair()).encode()[:-9], r"a\.jsonl, line 1 is not JSON"),
        (b"[1]\n", r"a\.jsonl, line 1: it is \[1\], expected an object with the release's keys"),
        (b'{"prompt": "O\xf9 ?"}', r"a\.jsonl, line 1 is not JSON in UTF-8 \(.* byte 0xf9"),
    ],
)
def test_files_without_pairs_are_refused(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    refused(lambda: read_train(path), message)


def test_no_file_and_no_files_are_refused(tmp_path):
    refused(lambda: read_train(tmp_path / "none.jsonl"), r"^cannot read .*none\.jsonl: No such")
    refused(lambda: read_train(tmp_path), r"has no \*\.jsonl; give the authors' data/train or a")
    write_lines(tmp_path / "chile.jsonl", pair())
    write_lines(tmp_path / "egypt.jsonl")
    refused(lambda: read_train(tmp_path), r"egypt\.jsonl is empty")


def test_blank_lines_and_a_byte_order_mark_are_no_matter(tmp_path):
    path = tmp_path / "a.jsonl"
    line = json.dumps(pair()).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    assert len(read_train(path).pairs) == 2
