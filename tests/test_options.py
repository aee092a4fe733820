"""Labels and orders of options."""

import pytest

from ace_jax.errors import InputError
from ace_jax.prompts.encode import PromptStyle, render
from ace_jax.prompts.options import check_options, listed

TEXTS, CODES = ("bad", "fair", "good"), (0, 5, 10)


@pytest.mark.parametrize(
    ("style", "given", "turned"),
    [
        ("number", "1. bad|2. fair|3. good", "1. good|2. fair|3. bad"),
        ("letter", "A. bad|B. fair|C. good", "A. good|B. fair|C. bad"),
        ("code", "0. bad|5. fair|10. good", "10. good|5. fair|0. bad"),
        ("text", "- bad|- fair|- good", "- good|- fair|- bad"),
    ],
)
def test_options_are_labelled_and_listed(style, given, turned):
    """Numbers and letters count lines; codes and texts belong to their options."""
    for last_first, lines in ((False, given), (True, turned)):
        options = listed(TEXTS, CODES, style, last_first)
        assert "|".join(option.line for option in options) == lines
        assert [option.text for option in options] == list(TEXTS[:: -1 if last_first else 1])


@pytest.mark.parametrize("template", ["persona_first", "question_first", "anthropological"])
@pytest.mark.parametrize(
    ("style", "labels"),
    [("number", ("1", "2", "3")), ("code", ("0", "5", "10")), ("text", TEXTS)],
)
def test_labels_come_back_in_the_surveys_order(template, style, labels):
    """Whatever the listing, a prompt's labels are those of option 1, 2, 3."""
    asked = PromptStyle.of(template, style)
    for last_first in (False, True):
        prompt = render("Well?", TEXTS, CODES, {"country": "CAN"}, asked, last_first)
        lines = [line for line in prompt.text.splitlines() if line.endswith(TEXTS)]
        assert [line.split()[-1] for line in lines] == list(TEXTS[:: -1 if last_first else 1])
        expected = labels[::-1] if last_first and style == "number" else labels
        assert prompt.labels == expected
        assert ("the text of one option" in prompt.text) == (style == "text")


def test_unknown_styles_orders_and_too_many_options_are_refused():
    with pytest.raises(InputError, match=r"prompt\.option_style: 'codes' .* did you mean code"):
        check_options("codes", "as_given")
    with pytest.raises(InputError, match=r"prompt\.option_order: 'turned' is not known"):
        check_options("number", "turned")
    with pytest.raises(InputError, match="no letter labels for 27 options"):
        listed(("x",) * 27, (0,) * 27, "letter", False)
    assert listed(("x",) * 40, (0,) * 40, "number", False)[-1].label == "40"
