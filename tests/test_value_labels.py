"""Labels of statistics files: answers or none, options, and how they name the country."""

import pandas as pd
import pytest

from ace_jax.survey.readers.value_labels import (
    NotAQuestionError,
    is_missing,
    option_label,
    options_of,
    question_text,
    with_country,
)


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
    assert is_missing(code, {code: label}, [])


@pytest.mark.parametrize(
    "label", ["National", "Not at all important", "Never", "None", "No", "Nap in the day", ""]
)
def test_labels_that_are_answers(label):
    assert not is_missing(9, {9: label}, [])


def test_ranges_and_negative_codes_are_no_answer():
    assert is_missing(97, {}, [{"lo": 97, "hi": 99}])
    assert is_missing(-4, {-4: "Recycling is not offered"}, [])
    assert not is_missing(96, {}, [{"lo": 97, "hi": 99}])


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
    assert option_label(code, label) == kept


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
    options = options_of(pd.Series([1.0]), {1: "In <COUNTRY>", 2: "Elsewhere"}, [])
    assert options.labels == ("In [COUNTRY]", "Elsewhere")


def test_a_scale_is_filled_in_only_between_its_labels():
    ends = {1: "Low", 5: "High"}
    assert options_of(pd.Series([1.0, 2.0]), ends, []).labels == ("Low", "2", "3", "4", "High")
    assert options_of(pd.Series([1.0, 5.0]), ends, []).labels == ("Low", "High")
    for stray in (6.0, 0.0, 2.5):
        with pytest.raises(NotAQuestionError, match="answers without a label"):
            options_of(pd.Series([1.0, stray]), ends, [])
