"""Prompt texts: a Jinja template over a persona, a question and its options.

Templates run in Jinja's sandbox: they reach none of the program's objects. A prompt is scored with
trailing blanks removed plus one newline, as in the authors' released code.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.prompts.options import Option

BUILT_IN_FILES = Path(__file__).parent / "templates"
LONGEST = 1 << 20  # characters of a prompt
# Put before a chat template, it takes today's date from it. Templates have a date of their own for
# that case, or fail.
UNDATED = "{%- set strftime_now = todays_date +%}"
LOGGER = logging.getLogger("ace_jax")
# In which languages a template is, as its own comment says: {# language: de fr -#}
LANGUAGES = re.compile(r"\{#-?\s*languages?:([\w\s]+)-?#\}")
BUILT_IN = ("persona_first", "question_first", "anthropological")


@dataclass(frozen=True)
class PromptTemplate:
    """A compiled template. Make one with `load` or `of_source`."""

    name: str
    source: str
    compiled: jinja2.Template

    @cached_property
    def languages(self) -> list[str]:
        """The languages that its comment names; English if there is none."""
        found = LANGUAGES.search(self.source)
        return found[1].split() if found else ["en"]

    @classmethod
    def load(cls, name: str) -> "PromptTemplate":
        """Reads a built-in template or a Jinja file; raises `InputError` where there is none."""
        file = BUILT_IN_FILES / f"{name}.j2" if name in BUILT_IN else Path(name)
        if not file.is_file():
            known = ", ".join(BUILT_IN)
            raise InputError(f"prompt.template: {name!r} is neither a file nor one of {known}")
        try:
            return cls.of_source(name, file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"prompt.template: {name} cannot be read ({error})") from None

    @classmethod
    def of_source(cls, name: str, source: str) -> "PromptTemplate":
        """Compiles a template's text; raises `InputError` naming the line that does not compile."""
        environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
        try:
            return cls(name, source, environment.from_string(source))
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"prompt.template: {name}, line {error.lineno}: {_one_line(error.message)}"
            ) from None
        except Exception as error:  # such as a number of 5,000 digits, or too deep a nest
            reason = f"{type(error).__name__}: {_one_line(error)}"
            raise InputError(f"prompt.template: {name} cannot be compiled ({reason})") from None

    def render(
        self,
        country: str,
        persona: Mapping[str, str],
        question: str,
        options: tuple[Option, ...],
        option_style: str = "number",
        language: str = "en",
    ) -> str:
        """Returns the prompt for one persona (level by attribute) and question.

        The template sees the arguments by their names, and `language` as `prompt_language`.
        Raises `InputError` if the template does what the sandbox forbids, fails, or gives too long
        a text.
        """
        variables = {
            "country": country,
            "persona": dict(persona),
            "question": question,
            "options": [asdict(option) for option in options],
            "option_style": option_style,
            "prompt_language": language,
        }
        try:
            text = self.compiled.render(variables | dict(persona))
        except Exception as error:  # a template of the user's can raise anything
            reason = f"{type(error).__name__}: {_one_line(error)}"
            raise InputError(f"prompt.template: {self.name}: {reason}") from None
        if len(text) > LONGEST:
            raise InputError(
                f"prompt.template: {self.name}: a prompt has {len(text)} characters, more than "
                f"{LONGEST}; shorten the template"
            )
        return text.rstrip() + "\n"


def in_chat(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, chat: bool = True
) -> list[str]:
    """Returns each text as a user's turn in the model's chat template (transformers' sandbox).

    It gets no date, so that a prompt is the same on every day. Without `chat` texts stay as they
    are, but for a start token that the tokenizer adds anyway.

    Raises `InputError` for a chat template that is missing or fails.
    """
    if not chat:
        return _without_start(texts, tokenizer)
    if tokenizer.chat_template is None:
        raise InputError("prompt.chat: this model's tokenizer has no chat template")
    turns = [[{"role": "user", "content": text.rstrip()}] for text in texts]
    try:
        undated = UNDATED + tokenizer.get_chat_template()
        rendered = tokenizer.apply_chat_template(
            turns, chat_template=undated, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template of the model's can raise anything
        why = _one_line(error)
        if "todays_date" in why:
            why = "writes today's date, and prompts would change with it; write a fixed one into it"
        raise InputError(f"prompt.chat: the model's chat template: {why}") from None
    return list(map(str, rendered))


def _without_start(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    start = tokenizer.bos_token
    bare = [re.sub(rf"\A\s*{re.escape(start)}", "", text) if start else text for text in texts]
    if bare == list(texts) or tokenizer("1")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return list(texts)
    LOGGER.info(f"warning: prompt.template writes {start}, which the tokenizer adds; once is kept")
    return bare


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:300]
