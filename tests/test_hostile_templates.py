"""Templates of prompts and chats that would escape, read files, or give too much text."""

import pytest
from refusals import refused_cheaply
from test_train import small_config
from test_wrong_input import refused

from ace_jax import train
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.prompts.options import listed
from ace_jax.prompts.template import PromptTemplate, in_chat

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "{{ lipsum.__globals__['os'].system('touch MARK') }}",
    "{{ (''|attr('__class__')).__base__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(self) }}",
    "{{ ''['__cl' ~ 'ass__']['__mro__'] }}",
    "{{ namespace.__init__.__globals__ }}",
]
FILES = [
    "{% include '/etc/hostname' %}",
    "{% import '/etc/hostname' as x %}",
    "{% extends '/etc/hostname' %}",
]
TOO_MUCH = [
    "{{ range(10**9)|list }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 'x' * 2000000 }}",
]


@pytest.mark.parametrize("source", [*ESCAPES, *FILES, *TOO_MUCH])
def test_a_prompt_template_does_no_harm(tmp_path, mark, source):
    (tmp_path / "own.j2").write_text(source.replace("MARK", str(mark)))

    def render():
        template = PromptTemplate.load(str(tmp_path / "own.j2"))
        options = listed(("No", "Yes"), (1, 2), "number", False)
        template.render("Chile", {"gender": "Male"}, "Why?", options)

    refused_cheaply(render, r"own\.j2|prompt\.template: ")
    assert not mark.exists()


@pytest.mark.parametrize("source", [ESCAPES[2], TOO_MUCH[0], "{% for %}"])
def test_a_chat_template_does_no_harm(copy, mark, source):
    (copy / "chat_template.jinja").write_text(source.replace("MARK", str(mark)))
    tokenizer = open_checkpoint(str(copy)).tokenizer
    refused_cheaply(
        lambda: in_chat(["Who are you?"], tokenizer), r"prompt\.chat: the model's chat template"
    )
    assert not mark.exists()


@pytest.mark.parametrize("source", [ESCAPES[3], FILES[0], TOO_MUCH[0]])
def test_training_stops_before_anything_is_written(tiny_checkpoint, tmp_path, mark, source):
    (tmp_path / "own.j2").write_text(source.replace("MARK", str(mark)))
    config = small_config(tiny_checkpoint, prompt__template=str(tmp_path / "own.j2"))
    refused(train.main, config, tmp_path / "run", r"own\.j2|prompt\.template: ")
    assert not mark.exists()
