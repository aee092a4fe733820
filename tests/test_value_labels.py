"""Labels of statistics files: answers or none, options, and how they name the country."""

import pandas as pd
import pytest

from ace_jax.survey.readers.value_labels import (
    Column,
    NotAQuestionError,
    options_of,
    question_text,
    with_country,
)


def column(labels, answers=(1.0,), ranges=()):
    return Column("v1", pd.Series(answers), labels=labels, ranges=ranges)


def labels_of(labels, *answers):
    return [label for _, label in options_of(column(labels, answers)).options]


@pytest.mark.parametrize(
    "label",
    [
        *("No answer", "NA", "NA, refused", "NAP", "NAV (GB)", "N.A.", "Not applicable", "Refused"),
        *("Can\u2019t choose", "Cannot choose", "Don't know", "DK, refused", "-9. No answer"),
        *("No answer; AT, IN: Can't choose", "(Don't know)", "Not available: US", "Inap."),
    ],
)
def test_labels_that_are_no_answer(label):
    code = -9 if label.startswith("-9") else 7
    assert column({code: label}).is_missing(code)


@pytest.mark.parametrize(
    "label", ["National", "Not at all important", "Never", "None", "No", "Nap in the day", ""]
)
def test_labels_that_are_answers(label):
    assert not column({9: label}).is_missing(9)


def test_ranges_and_negative_codes_are_no_answer():
    of = column({-4: "Recycling is not offered"}, ranges=[{"lo": 97, "hi": 99}])
    assert [of.is_missing(code) for code in (97, -4, 96)] == [True, True, False]
    assert not column({}, ranges=[{"lo": "97", "hi": "99"}]).is_missing(97)


@pytest.mark.parametrize(
    ("code", "label", "kept"),
    [
        (1, "1. Agree", "Agree"),
        (1.0, "1: Agree", "Agree"),
        (-9, "-9. No answer", "No answer"),
        (1, "1, Not at all", "1, Not at all"),
        (2, "2.5 hours", "2.5 hours"),
        (3, "1. Agree", "1. Agree"),
        (4, "4", "4"),
        (5, "  Strongly   agree ", "Strongly agree"),
    ],
)
def test_a_label_loses_the_code_it_repeats(code, label, kept):
    assert column({code: label}).label(code) == kept


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("Q12b Proud of [COUNTRY]", "Proud of [COUNTRY]"),
        ("Q1a Issues for [R's COUNTRY] today?", "Issues for [COUNTRY] today?"),
        ("<Country> should follow (R\u2019s country)", "[COUNTRY] should follow [COUNTRY]"),
        ("Born in R's country", "Born in [COUNTRY]"),
        ("To have [NATIONALITY] citizenship", "To have [COUNTRY]'s citizenship"),
        ("Citizen: <COUNTRY NATIONALITY>", "Citizen: of [COUNTRY]"),
        ("The country's future", "The country's future"),
        ("Quality of schools", "Quality of schools"),
    ],
)
def test_a_text_names_the_country_in_one_way(label, text):
    assert question_text(label) == text
    assert with_country(text) == text


def test_an_option_names_the_country_in_the_same_way():
    assert labels_of({1: "In <COUNTRY>", 2: "Elsewhere"}, 1.0) == ["In [COUNTRY]", "Elsewhere"]


def test_a_scale_is_filled_in_only_between_its_labels():
    ends = {1: "Low", 5: "High"}
    assert labels_of(ends, 1.0, 2.0) == ["Low", "2", "3", "4", "High"]
    assert labels_of(ends, 1.0, 5.0) == ["Low", "High"]
    with pytest.raises(NotAQuestionError, match="more than 11 options"):
        labels_of({1: "Low", 2**40: "High"}, 1.0, 2.0)
    for stray in (6.0, 0.0, 2.5):
        with pytest.raises(NotAQuestionError, match="answers without a label"):
            labels_of(ends, 1.0, stray)
