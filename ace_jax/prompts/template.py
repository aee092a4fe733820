"""Prompt texts: a Jinja template over a persona, a question and its options.

Templates run in the sandbox that Hugging Face chat templates run in. A prompt is scored with
trailing blanks removed plus one newline, as in the authors' released code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.prompts.sandbox import Sandbox, TemplateError, prompt_renderer

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

    renderer: Callable[[dict[str, Any]], str]
    source: str

    @classmethod
    def load(cls, name: str) -> "PromptTemplate":
        """Reads a built-in template or a Jinja file.

        Raises `InputError` where there is no such template or it does not compile.
        """
        if name in BUILT_IN:
            file = resources.files("ace_jax.prompts") / "templates" / f"{name}.j2"
            source = file.read_text(encoding="utf-8")
            return cls(prompt_renderer(source), source)
        if not Path(name).is_file():
            known = ", ".join(BUILT_IN)
            raise InputError(f"prompt.template: {name!r} is neither a file nor one of {known}")
        source = _read(Path(name))
        try:
            return cls(Sandbox("prompt", source).render, source)
        except TemplateError as error:
            where = f"{name}, line {error.line}" if error.line else f"prompt.template: {name}"
            raise InputError(f"{where}: {error}") from None

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
          InputError: the template does what the sandbox forbids, takes too much, or fails.
        """
        variables = {
            "country": country,
            "persona": dict(persona),
            "question": question,
            "options": [asdict(option) for option in options],
        }
        try:
            text = self.renderer(variables | dict(persona))
        except TemplateError as error:
            raise InputError(f"prompt.template: {error}") from None
        return text.rstrip() + "\n"


def in_chat(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns each text as a user's turn in the chat template that comes with a model.

    Raises `InputError` where there is none, or it does what the sandbox forbids, takes too much, or
    fails.
    """
    if tokenizer.chat_template is None:
        raise InputError("prompt.chat: this model's tokenizer has no chat template")
    try:
        sandbox = Sandbox("chat", tokenizer.get_chat_template())
        turns = [[{"role": "user", "content": text.rstrip()}] for text in texts]
        known = tokenizer.special_tokens_map
        return [sandbox.render({"messages": turn} | known) for turn in turns]
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(f"prompt.chat: the model's chat template: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt.template: {path} cannot be read ({error})") from None
