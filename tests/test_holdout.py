import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_jax.errors import InputError
from ace_jax.survey.holdout import Holdout, parse, split_questions

QUESTIONS = [f"q{number}" for number in range(10)]


def test_the_specs():
    assert parse("none") is None
    assert parse("question:0.2") == Holdout(0.2)


@pytest.mark.parametrize(
    "spec", ["", "question", "question:", "question:0", "question:1", "question:nan", "topic:0.2"]
)
def test_other_specs_are_refused_with_the_known_ones(spec):
    with pytest.raises(InputError, match="use none, or question:SHARE"):
        parse(spec)


def test_none_holds_nothing_out():
    assert split_questions(QUESTIONS, "none", 0) == (QUESTIONS, [])


def test_the_lowest_hashes_are_held_out():
    train, held_out = split_questions(QUESTIONS, "question:0.2", 7)
    assert len(held_out) == 2
    ranks = {name: hashlib.sha256(f"7:{name}".encode()).hexdigest() for name in QUESTIONS}
    assert max(ranks[name] for name in held_out) < min(ranks[name] for name in train)
    assert split_questions(QUESTIONS, "question:0.2", 8)[1] != held_out


@given(st.permutations(QUESTIONS), st.floats(0.01, 0.9), st.integers(0, 99))
def test_a_split_is_a_partition_that_does_not_depend_on_order(shuffled, share, seed):
    train, held_out = split_questions(shuffled, f"question:{share}", seed)
    assert sorted(train + held_out) == QUESTIONS
    assert len(held_out) == max(1, round(share * 10))
    assert set(held_out) == set(split_questions(QUESTIONS, f"question:{share}", seed)[1])


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="all 1 questions"):
        split_questions(["q1"], "question:0.5", 0)
