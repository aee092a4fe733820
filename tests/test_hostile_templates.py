"""Templates of prompts and chats that would escape, read files, or never end."""

import subprocess
import sys

import pytest
from refusals import refused_cheaply
from test_train import ROOT, small_config
from test_wrong_input import refused

from ace_jax import train
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.prompts import sandbox
from ace_jax.prompts.encode import PromptStyle
from ace_jax.prompts.template import PromptTemplate, in_chat, options_of

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
WITHOUT_END = [
    "{{ range(10**9)|list }}",
    "{{ 'x' * 10**11 }}",
    "{{ 'x'.ljust(10**11) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ 9**(9**9) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(200) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 'x' * 2000000 }}",
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 3.0)


@pytest.mark.parametrize("source", [*ESCAPES, *FILES, *WITHOUT_END])
def test_a_prompt_template_does_no_harm(tmp_path, mark, source):
    (tmp_path / "own.j2").write_text(source.replace("MARK", str(mark)))

    def render():
        template = PromptTemplate.load(str(tmp_path / "own.j2"))
        template.render("Chile", {"gender": "Male"}, "Why?", options_of(("No", "Yes"), "number"))

    refused_cheaply(render, r"own\.j2|prompt\.template: ")
    assert not mark.exists()


def test_the_process_of_a_template_ends_with_it(tmp_path):
    (tmp_path / "own.j2").write_text("{{ country }}")
    style = PromptStyle.of(str(tmp_path / "own.j2"), "number")
    process = style.template.renderer.__self__._process
    assert style.template.render("Chile", {}, "Why?", ()) == "Chile\n"
    assert process.poll() is None
    del style
    assert process.poll() is not None


def test_the_process_of_a_template_writes_no_file(tmp_path):
    # What is left to a template that escapes: nothing that lasts.
    program = (
        "import sys; sys.argv = ['x', '0', 'prompt']\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from multiprocessing import Pipe\n"
        "from ace_jax.prompts import sandbox\n"
        "ours, theirs = Pipe()\n"
        "ours.send_bytes(b'{}'); ours.send_bytes(b'\"x\"'); ours.send_bytes(b'no more')\n"
        "try: sandbox._serve(theirs, 'prompt')\n"
        "except ValueError: pass\n"
        f"with open({str(tmp_path / 'mark')!r}, 'w') as file: file.write('x')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert b"File too large" in ended.stderr
    assert (tmp_path / "mark").read_text() == ""


@pytest.mark.parametrize("source", [ESCAPES[2], WITHOUT_END[1], WITHOUT_END[5], "{% for %}"])
def test_a_chat_template_does_no_harm(copy, mark, source):
    (copy / "chat_template.jinja").write_text(source.replace("MARK", str(mark)))
    tokenizer = open_checkpoint(str(copy)).tokenizer
    refused_cheaply(
        lambda: in_chat(["Who are you?"], tokenizer), r"prompt\.chat: the model's chat template"
    )
    assert not mark.exists()


@pytest.mark.parametrize("source", [ESCAPES[3], FILES[0], WITHOUT_END[5]])
def test_training_stops_before_anything_is_written(tiny_checkpoint, tmp_path, mark, source):
    (tmp_path / "own.j2").write_text(source.replace("MARK", str(mark)))
    config = small_config(tiny_checkpoint, prompt__template=str(tmp_path / "own.j2"))
    refused(train.main, config, tmp_path / "run", r"own\.j2|prompt\.template: ")
    assert not mark.exists()
