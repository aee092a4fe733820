"""Whatever a user gets wrong is one line that says what, before anything is written."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from forked import Forked
from safetensors.numpy import load_file, save_file
from test_evaluate import config_for
from test_gguf import write_gguf
from test_train import ROOT, command, small_config

from ace_jax import evaluate, train
from ace_jax.errors import InputError
from ace_jax.runtime.metrics import MetricsLog
from ace_jax.survey.dataset import read_dataset, write_dataset
from ace_jax.training import run as run_module


def refused(main, config, workdir, message):
    """Checks that a command stops with a one-line message and writes nothing."""
    with pytest.raises(InputError, match=message) as error:
        main(config, workdir)
    assert "\n" not in str(error.value)
    assert not workdir.exists()


@pytest.fixture
def refuses_to_train(tiny_checkpoint, tmp_path, monkeypatch):
    """Checks that training with some changed settings is refused, before the first compilation."""
    for compiled in ("initial_lora", "initial_state"):
        monkeypatch.setattr(run_module, compiled, lambda *_: pytest.fail("not refused in time"))

    def check(message, checkpoint=tiny_checkpoint, **changes):
        refused(train.main, small_config(checkpoint, **changes), tmp_path / "run", message)

    return check


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.path": "/no/where"}, r"model\.path: '/no/where' is no directory, .gguf file"),
        ({"model.dtype": "float16"}, r"model\.dtype: 'float16' is not known; .* bfloat16, float32"),
        ({"data.path": "/no/where"}, r"there is no DATASET /no/where; make one with"),
        ({"data.questions": ("god",)}, r"data\.questions: 'god' is not known; did you mean"),
        ({"data.min_n": 10**6}, r"no pair among 240 cells: .* n >= 1000000 .* smaller minimum"),
        ({"data.holdout": "region:0.2"}, r"data\.holdout is 'region:0\.2'; use none, question:"),
        (
            {"data.holdout": "country:FRA"},
            r"data\.holdout country:FRA: .* no 'FRA'; .* USA",
        ),
        ({"data.holdout": "country:USA"}, r"data\.holdout country:USA leaves none of \d+ pairs"),
        ({"data.holdout": "question:0.9"}, r"data\.holdout question:0\.9 holds out all 3"),
        ({"prompt.template": "nowhere"}, r"prompt\.template: 'nowhere' is neither a file nor"),
        (
            {"prompt.option_style": "roman"},
            r"prompt\.option_style: 'roman' is not known; did you mean",
        ),
        ({"prompt.chat": True}, r"prompt\.chat: .* no chat template"),
        ({"lora.targets": ("q_proj", "wq")}, r"lora\.targets: 'wq'; choose from q_proj, k_proj"),
        ({"lora.targets": ()}, r"lora\.targets: empty; choose from"),
        ({"lora.rank": 0}, r"lora\.rank: 0 is not a positive number"),
        ({"lora.dropout": 1.0}, r"lora\.dropout: 1\.0 is not in"),
        ({"lora.init_from": "/no/where"}, r"/no/where: not a PEFT adapter"),
        ({"objective.stages": ()}, r"objective\.stages: \(\) is not a sequence of \(alpha"),
        ({"objective.stages": (3,)}, r"objective\.stages: \(3,\) is not a sequence of \(alpha"),
        ({"objective.stages": ((0.0, 0.0, 1),)}, r"objective\.stages: .* not both 0"),
        ({"objective.stages": ((1.0, 0.0, 1.5),)}, r"objective\.stages: .* a whole number"),
        ({"objective.stages": ((float("nan"), 1.0, 1),)}, r"objective\.stages: .* finite"),
        ({"objective.anchor_normalizer": "words"}, r"normalizer: 'words' is not known; .* options"),
        ({"optimizer.accumulation": 0}, r"optimizer\.accumulation: 0 is not a positive number"),
        ({"max_steps": 0}, r"max_steps: 0 is not a positive number"),
        ({"checkpoint.every_steps": 0}, r"checkpoint\.every_steps: 0 is not a positive number"),
        ({"batch.unit": "cell"}, r"batch\.unit: 'cell' is not known; .* context, pair, question"),
        ({"batch.countries": 0}, r"batch\.countries: 0 is not"),
        ({"data.granularity": 5}, r"data\.granularity: 5 is not a number .* use 1 to 4"),
        (
            {"data.granularity": 1, "data.holdout": "persona:paper"},
            r"data\.granularity: coarser cells include the respondents of personas held out",
        ),
        ({"objective.toggles": ("country",)}, r"objective\.toggles: \('country',\) is not"),
        (
            {"objective.toggles": ("attributes", "country"), "batch.unit": "context"},
            r"objective\.toggles: a context has one country; set batch\.unit=question",
        ),
        ({"batch.size": 0}, r"batch\.size: 0 is not a positive number"),
        ({"batch.row_lengths": ()}, r"batch\.row_lengths: \(\) is not a sequence of ascending"),
        ({"batch.row_lengths": (512, 256)}, r"batch\.row_lengths: .* ascending"),
        ({"batch.row_lengths": (64,)}, r"batch\.row_lengths: the longest prompt has \d+ tokens"),
        ({"mesh.data": 3}, r"mesh: data=3, fsdp=1, tensor=1 does not fit 8 device"),
        ({"mesh.fsdp": 5}, r"mesh: data=-1, fsdp=5, tensor=1 does not fit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings(refuses_to_train, changes, message):
    refuses_to_train(message, **changes)


# Surveys.


@pytest.fixture
def dataset(tmp_path):
    """The embedded survey, changed and written as a directory."""

    def write(change):
        gss = read_dataset("gss2018")
        change(gss)
        write_dataset(gss, tmp_path / "data")
        return str(tmp_path / "data")

    return write


def test_an_option_set_of_one(refuses_to_train, dataset):
    def change(gss):
        gss.questions.at[0, "option_codes"] = [1]
        gss.questions.at[0, "option_labels"] = ["Yes"]

    path = dataset(change)
    refuses_to_train(
        r"question natspac has the option codes \(1,\) .* give it at least two", data__path=path
    )


def test_nan_among_the_answers(refuses_to_train, tiny_checkpoint, dataset, tmp_path):
    def change(gss):
        gss.cells.at[7, "p"] = np.array([0.5, np.nan, 0.5])

    path = dataset(change)
    message = r"cells\.parquet: row 7 has a p with shares below 0 or not of sum 1"
    refuses_to_train(message, data__path=path)
    refused(evaluate.main, config_for(tiny_checkpoint, path), tmp_path / "out", message)


# Models.


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def cut(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.99])
def test_truncated_weights(refuses_to_train, copy, share):
    cut(copy / "model.safetensors", share)
    refuses_to_train(r"model\.safetensors: truncated or damaged .*fetch it again", copy)


def test_no_weights(refuses_to_train, copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refuses_to_train(r"copy: no \*\.safetensors file \(pickled weights are not read\)", copy)


def change_config(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"intermediate_size": 80},
            r"layers\.0\.mlp\.gate_proj\.weight has shape \(96, 64\), .* \(80, 64\)",
        ),
        ({"num_hidden_layers": 5}, r"missing model\.layers\.2\.input_layernorm"),
        ({"num_hidden_layers": 1}, r"unknown model\.layers\.1\.input_layernorm"),
        ({"vocab_size": 1000}, r"embed_tokens\.weight has shape .* \(1000, 64\)"),
        ({"vocab_size": 383}, r"the tokenizer has 384 tokens, but the model's embedding 383"),
        ({"architectures": ["GemmaForCausalLM"]}, "architecture 'GemmaForCausalLM' is not"),
        ({"attention_bias": True}, r"missing model\.layers\.0\.self_attn\.k_proj\.bias"),
        ({"rope_parameters": {"rope_type": "su", "rope_theta": 1e4}}, "rope type 'su' is not"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "'low_.*' is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_does_not_fit(refuses_to_train, copy, changes, message):
    change_config(copy, **changes)
    refuses_to_train(message, copy)


@pytest.mark.parametrize(
    ("content", "message"), [(None, r"config\.json is missing"), ("{", r"config\.json: not JSON")]
)
def test_no_config(refuses_to_train, copy, content, message):
    (copy / "config.json").unlink()
    if content is not None:
        (copy / "config.json").write_text(content)
    refuses_to_train(message, copy)


def test_no_tokenizer(refuses_to_train, copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    refuses_to_train(r"copy: no tokenizer can be read", copy)


def test_a_damaged_tokenizer(refuses_to_train, copy):
    cut(copy / "tokenizer.json", 0.5)
    refuses_to_train(r"copy: no tokenizer can be read", copy)


def test_a_config_that_is_no_mapping(refuses_to_train, copy):
    (copy / "config.json").write_text("[]")
    refuses_to_train(r"config\.json", copy)


def test_a_tokenizer_of_another_model(refuses_to_train, copy):
    weights = load_file(copy / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:40]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    change_config(copy, vocab_size=40)
    refuses_to_train("the tokenizer has 384 tokens, but the model's embedding 40; put", copy)


def test_an_index_that_names_a_missing_shard(refuses_to_train, copy):
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses_to_train(r"index\.json: model-00002-of-00002\.safetensors missing beside it", copy)


def test_quantised_weights(refuses_to_train, copy):
    weights = load_file(copy / "model.safetensors")
    for name in weights:
        if name.endswith("_proj.weight"):
            weights[name] = weights[name].astype(np.int8)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    refuses_to_train(r"layers\.0\.mlp\.up_proj\.weight is I8; .* not quantised", copy)


@pytest.mark.parametrize(
    "damage", [partial(cut, share=0.5), lambda file: file.write_bytes(b"?" * 99)]
)
def test_a_damaged_gguf_file(refuses_to_train, tiny_checkpoint, tmp_path, damage):
    path = write_gguf(tmp_path / "model.gguf", tiny_checkpoint)
    damage(path)
    refuses_to_train(r"model\.gguf: not a complete GGUF file", path)


# Adapters.


def test_adapters(refuses_to_train, tiny_checkpoint, peft_adapter, tmp_path):
    _, adapter = peft_adapter("q_proj")
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()

    def refuses(message):
        refuses_to_train(message, lora__init_from=str(adapter))
        config = config_for(
            tiny_checkpoint, "gss2018", adapter__path=str(adapter), data__questions=("abany",)
        )
        refused(evaluate.main, config, tmp_path / "out", message)

    cut(weights, 0.5)
    refuses(r"adapter_model\.safetensors: truncated or damaged")
    weights.unlink()
    refuses(r"adapter_model\.safetensors is missing \(pickled adapters are not read\)")
    weights.write_bytes(whole)
    description = json.loads((adapter / "adapter_config.json").read_text())
    for change, message in (
        ({"r": 8}, r"lora_A\.weight has shape \(4, 64\), the model needs \(8, 64\)"),
        ({"target_modules": ["q_proj", "v_proj"]}, r"missing \S+v_proj\.lora_A\.weight"),
        ({"target_modules": ["v_proj"]}, r"missing \S+v_proj\.lora_A\.weight"),
        (
            {"target_modules": ["q_proj", "wq"]},
            r"adapter_config\.json: lora\.targets: 'wq'; choose",
        ),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"peft_type": "IA3"}, "peft_type is not LORA"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(description | change))
        refuses(message)
    (adapter / "adapter_config.json").write_text(json.dumps(description))
    save_file(load_file(weights), weights, metadata={"base_fingerprint": "0" * 64})
    refuses(r"was trained on another base model .*convert import-adapter` if that is meant$")


# Work directories.


def test_a_run_that_was_killed_while_it_wrote_a_line_goes_on(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    with MetricsLog(tmp_path, first_step=1, last_step=3):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("experiment.json", "{", r"experiment\.json: not JSON"),
        ("experiment.json", "{}", r"experiment\.json: not a whole experiment record"),
    ],
)
def test_a_record_that_is_not_ours(tiny_checkpoint, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        train.main(small_config(tiny_checkpoint), tmp_path)


def test_checkpoints_without_a_record_are_not_gone_on_from(tiny_checkpoint, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"holds files of another kind; choose another"):
        train.main(small_config(tiny_checkpoint), tmp_path)


# What the command line makes of it.

COMMANDS = {
    "missing model": ("train", "quickstart.py", "--config.model.path=/no/where/model"),
    "unknown field": ("train", "quickstart.py", "--config.lora.rnk=3"),
    "wrong type": ("evaluate", "evaluate.py:quickstart", "--config.batch.size=eight"),
    "no such method": ("train", "methods.py:sft"),
    "one number": ("train", "quickstart.py", "--config.objective.stages=3"),
    "workdir is a file": ("evaluate", "evaluate.py:quickstart", f"--workdir={__file__}"),
}
LINES = {
    "missing model": "error: model.path: '/no/where/model' is no directory, .gguf file, hub id",
    "unknown field": "error: --config has no such field: rnk. Did you mean rank",
    "wrong type": "error: flag --config.batch.size=eight: invalid literal for int()",
    "no such method": "error: configs/methods.py has no method 'sft'; there are: base, adprompt",
    "one number": "error: objective.stages: ",
    "workdir is a file": f"error: --workdir {__file__} is a file",
}


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Status, output and work directory of each command; they run side by side."""
    workdirs = {name: tmp_path_factory.mktemp("work") / "dir" for name in COMMANDS}
    running = {
        name: Forked(command(kind, config, workdirs[name], *arguments), devices=1, cwd=ROOT)
        for name, (kind, config, *arguments) in COMMANDS.items()
    }
    said = {name: process.communicate(timeout=300)[1] for name, process in running.items()}
    return {name: (running[name].returncode, said[name], workdirs[name]) for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_with_one_line_and_status_1(endings, name):
    status, said, workdir = endings[name]
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert errors == said.splitlines()[-1:]
    assert errors[0].startswith(LINES[name])
    assert status == 1
    assert not workdir.exists()
