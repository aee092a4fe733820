"""How a prompt lists a question's options: their labels and their order."""

from dataclasses import dataclass

from ace_jax.errors import InputError, check_known
from ace_jax.survey.codebook import MOST_OPTIONS

NUMBERED = {
    "number": [str(number) for number in range(1, MOST_OPTIONS + 1)],
    "letter": [chr(ord("A") + number) for number in range(26)],
}
STYLES = (*NUMBERED, "text", "code")
# Which listings each `prompt.option_order` asks for: True lists the options from last to first.
ORDERS = {"as_given": (False,), "reversed": (True,), "both": (False, True)}


@dataclass(frozen=True)
class Option:
    """One answer: the label that the model is to say, its text, and the line that shows both."""

    label: str
    text: str
    line: str


def check_options(style: str, order: str) -> None:
    """Raises `InputError` for an unknown style of labels or order of options."""
    check_known(style, STYLES, "prompt.option_style")
    check_known(order, ORDERS, "prompt.option_order")


def listed(
    texts: tuple[str, ...], codes: tuple[int, ...], style: str, last_first: bool
) -> tuple[Option, ...]:
    """Returns a question's options as a prompt lists them.

    `number` labels the lines 1..K and `letter` A.., from the top, in either order. `text` and
    `code` belong to the option: its text, or the survey's own code.

    Args:
      texts: of the options, in the survey's order.
      codes: of the options, alike.
      style: one of `STYLES`.
      last_first: whether the last option is listed first.

    Raises:
      InputError: more options than labels.
    """
    step = -1 if last_first else 1
    texts, codes = texts[::step], codes[::step]
    if style in NUMBERED and len(texts) > len(NUMBERED[style]):
        raise InputError(f"prompt.option_style: no {style} labels for {len(texts)} options")
    if style == "text":
        return tuple(Option(text, text, f"- {text}") for text in texts)
    labels = list(map(str, codes)) if style == "code" else NUMBERED[style]
    pairs = zip(labels, texts, strict=False)
    return tuple(Option(label, text, f"{label}. {text}") for label, text in pairs)
