"""The comparison with transformers and peft: it agrees where it should, and tells of damage."""

import builtins
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_convert import plain, random_adapter, run, transformer
from test_gguf import write_gguf
from test_train import quick_commands, small_config

from ace_jax import train, verification
from ace_jax.errors import InputError
from ace_jax.language_model import LanguageModel
from ace_jax.model.formats.peft import CONFIG, RECORD, WEIGHTS
from ace_jax.prompts.encode import PromptStyle
from ace_jax.prompts.options import STYLES
from ace_jax.survey.readers.sources import load_survey
from ace_jax.verification import TOLERANCE, answers_with_peft, prompts_of, survey_of, verify


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint, tmp_path_factory):
    """A random adapter of all seven layers, rank-stabilised, that names its base."""
    directory = tmp_path_factory.mktemp("adapter") / "peft"
    random_adapter(transformer(tiny_checkpoint), directory, rslora=True)
    return directory


def changed(directory, **fields):
    """The adapter with other fields in its description."""
    description = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(description | fields))


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("option_style", STYLES)
def test_every_style_is_answered_alike(option_style, chat, tiny_checkpoint, adapter, tmp_path):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (base / "chat_template.jinja").write_text("User: {{ messages[0].content }}\nAnswer:\n")
    style = PromptStyle.of("question_first", option_style, chat, "both")
    model = LanguageModel.from_pretrained(adapter, base=str(base), prompt=style, dtype="float32")
    asked = prompts_of(model, load_survey("gss2018"), 3)
    assert [each.name.endswith("last option first") for each in asked] == [False, True, False]
    assert all(each.sent.startswith("User: ") == chat for each in asked)
    theirs = answers_with_peft(model.checkpoint, adapter, asked, chat)
    ours = model.ask({"": [each.text for each in asked]})[""].p
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
        assert np.abs(other - other.mean()).max() > 0.01  # not the uniform answer


def test_all_linear_layers_of_a_tied_model(tiny_tied_checkpoint, tmp_path, capsys):
    random_adapter(transformer(tiny_tied_checkpoint), tmp_path / "peft", targets="all-linear")
    changed(tmp_path / "peft", target_modules="all-linear")
    run("verify-adapter", "--adapter", tmp_path / "peft", "--prompts", 2)
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["prompt", "difference"] and len(rows) == 2
    assert all(re.search(r"\w+, USA, .*\w  +\d\.\de[-+]\d\d$", row) for row in rows)


def test_a_gguf_base(tiny_checkpoint, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_checkpoint, change=plain)
    random_adapter(transformer(tiny_checkpoint), tmp_path / "peft")
    assert verify(tmp_path / "peft", str(file), count=2)["difference"].max() <= TOLERANCE


def test_the_prompts_are_of_the_survey_and_style_of_training(tiny_checkpoint, tmp_path, capsys):
    config = small_config(tiny_checkpoint, prompt__option_style="letter", max_steps=2)
    train.main(config, tmp_path / "run")
    directory = tmp_path / "run" / "adapter"
    model = LanguageModel.from_pretrained(directory)
    capsys.readouterr()
    survey = survey_of(model)
    assert set(survey.questions["question_id"]) == {*model.experiment.survey.questions}
    assert not capsys.readouterr().err
    assert {each.text.labels[0] for each in prompts_of(model, survey, 4)} == {"A"}
    assert verify(directory, count=2)["difference"].max() <= TOLERANCE

    record = json.loads((directory / RECORD).read_text())
    del record["content_sha256"]  # changed on purpose
    for field, other in (("digest", "0" * 64), ("path", "no/where")):
        survey = record["survey"] | {field: other}
        (directory / RECORD).write_text(json.dumps(record | {"survey": survey}))
        assert survey_of(LanguageModel.from_pretrained(directory)).name == "gss2018"
        assert "survey is not at hand as it was" in capsys.readouterr().err


def halved(directory):
    changed(directory, lora_alpha=1.5)


def not_stabilised(directory):
    changed(directory, use_rslora=False)


def one_factor(directory):
    weights = load_file(directory / WEIGHTS)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    save_file(weights | {name: -weights[name]}, directory / WEIGHTS)


def not_finite(directory):
    weights = load_file(directory / WEIGHTS)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(weights | {name: weights[name] * np.float32("nan")}, directory / WEIGHTS)


@pytest.mark.parametrize("damage", [halved, not_stabilised, one_factor, not_finite])
def test_an_adapter_that_peft_reads_otherwise_is_told(damage, adapter, tmp_path, monkeypatch):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    damage(copy)

    def of_the_copy(checkpoint, directory, *rest):
        return answers_with_peft(checkpoint, copy, *rest)

    monkeypatch.setattr(verification, "answers_with_peft", of_the_copy)
    with pytest.raises(InputError, match=r"answer otherwise: .* differs by .*, more than 0\.0001$"):
        run("verify-adapter", "--adapter", adapter, "--prompts", 2)


def test_without_peft_one_line_says_what_is_missing(adapter, monkeypatch):
    found = builtins.__import__

    def without(name, *rest):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"torch and peft are needed .*: pip install torch peft$"):
        run("verify-adapter", "--adapter", adapter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--adapter {base}", "is not a PEFT adapter"),
        ("--adapter {adapter} --prompts 0", "--prompts: 0 is not a positive number"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tiny_checkpoint, adapter):
    places = {"base": tiny_checkpoint, "adapter": adapter}
    with pytest.raises(InputError, match=message):
        run("verify-adapter", *arguments.format(**places).split())
