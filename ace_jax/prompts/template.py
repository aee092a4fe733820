"""Prompt texts: a Jinja template over a persona, a question and its options.

Templates run in the sandbox that Hugging Face chat templates run in. A prompt is scored with
trailing blanks removed plus one newline, as in the authors' released code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ace_jax.errors import InputError

BUILT_IN = ("persona_first", "question_first", "anthropological")
STYLES = {
    "number": [str(number) for number in range(1, 27)],
    "letter": [chr(ord("A") + number) for number in range(26)],
}


@dataclass(frozen=True)
class Option:
    """One answer: what the model is to say, and what it means."""

    label: str
    text: str


def options_of(texts: tuple[str, ...], style: str) -> tuple[Option, ...]:
    """Labels a question's options: `number` gives 1..K, `letter` gives A.. in option order.

    Raises `InputError` for an unknown style or more options than labels.
    """
    if style not in STYLES:
        raise InputError(f"prompt.option_style: {style!r} is not one of {', '.join(STYLES)}")
    if len(texts) > len(STYLES[style]):
        raise InputError(f"prompt.option_style: no {style} labels for {len(texts)} options")
    return tuple(Option(*pair) for pair in zip(STYLES[style], texts, strict=False))


@dataclass(frozen=True)
class PromptTemplate:
    """A compiled template. Make one with `load`."""

    template: jinja2.Template
    source: str

    @classmethod
    def load(cls, name: str) -> "PromptTemplate":
        """Reads a built-in template or a Jinja file.

        Raises `InputError` where there is no such template or it does not parse.
        """
        if name in BUILT_IN:
            file = resources.files("ace_jax.prompts") / "templates" / f"{name}.j2"
            source = file.read_text(encoding="utf-8")
        elif Path(name).is_file():
            source = _read(Path(name))
        else:
            known = ", ".join(BUILT_IN)
            raise InputError(f"prompt.template: {name!r} is neither a file nor one of {known}")
        environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
        try:
            return cls(environment.from_string(source), source)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{name}, line {error.lineno}: {error.message}") from None

    def render(
        self, country: str, persona: Mapping[str, str], question: str, options: tuple[Option, ...]
    ) -> str:
        """Returns the prompt for one persona and question.

        Args:
          country: English name.
          persona: level by attribute, only the attributes that the persona names.
          question: its text.
          options: in option order.

        Raises:
          InputError: the template does what the sandbox forbids, or fails.
        """
        try:
            text = self.template.render(
                country=country, persona=persona, question=question, options=options, **persona
            )
        except Exception as error:  # a user's program: what it can raise has no bound
            raise InputError(f"prompt.template: {type(error).__name__}: {error}") from None
        return text.rstrip() + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt.template: {path} cannot be read ({error})") from None
