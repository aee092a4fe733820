"""The convert command: what it writes, read by transformers and peft, and what it refuses."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from gguf import GGMLQuantizationType as Kind
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_families import family  # noqa: F401 - a fixture
from test_gguf import write_gguf
from test_inspect import described, weights_of
from test_llama import logits, prompt, torch_logits, trie_of
from test_train import quick_commands, small_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from ace_jax import convert, train
from ace_jax.errors import InputError
from ace_jax.files import sha256_of
from ace_jax.model.formats.hf import fingerprint
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.formats.peft import CONFIG, RECORD, WEIGHTS, read_record
from ace_jax.model.lora import TARGETS

NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def transformer(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture
def rewritten(tiny_checkpoint, tmp_path):
    """The tiny checkpoint in another dtype."""

    def write(dtype):
        copy = shutil.copytree(tiny_checkpoint, tmp_path / dtype)
        weights = {n: w.astype(NUMPY[dtype]) for n, w in weights_of(copy).items()}
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        return copy

    return write


def random_adapter(base, path, rslora=False, targets=TARGETS):
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=3, use_rslora=rslora, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    return model


# merge


def test_merged_is_base_and_adapter(tiny_checkpoint, load, tokenizer, tmp_path):
    adapted = random_adapter(transformer(tiny_checkpoint), tmp_path / "peft", rslora=True)
    run("merge", "--model", tiny_checkpoint, "--adapter", tmp_path / "peft",
        "--output", tmp_path / "whole")  # fmt: skip
    tokens = prompt(tokenizer)
    # In double precision, so that what differs is how the merged weights were rounded.
    wanted = torch_logits(adapted.double(), tokens)
    with adapted.disable_adapter():
        assert np.abs(torch_logits(adapted, tokens) - wanted).max() > 0.1
    merged = torch_logits(transformer(tmp_path / "whole").double(), tokens)
    np.testing.assert_allclose(merged, wanted, rtol=0, atol=1e-5)
    both = logits(nnx.merge(*load(tiny_checkpoint, tmp_path / "peft")), trie_of(tokens))
    ours = logits(nnx.merge(*load(tmp_path / "whole")), trie_of(tokens))
    # In single precision, of the largest logit.
    np.testing.assert_allclose(ours, both, rtol=0, atol=1e-5 * np.abs(both).max())
    own = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert own("1 of 10")["input_ids"] == tokenizer("1 of 10")["input_ids"]


@pytest.mark.parametrize("kept", NUMPY)
def test_each_tensor_is_rounded_once_or_left_alone(kept, rewritten, tmp_path):
    base = rewritten(kept)
    random_adapter(transformer(base), tmp_path / "peft", targets=["v_proj", "down_proj"])
    run("merge", "--model", base, "--adapter", tmp_path / "peft", "--output", tmp_path / "whole",
        "--shard-size", "20KB")  # fmt: skip
    index = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "whole").glob("*.safetensors")}
    assert files == set(index["weight_map"].values()) and len(files) > 3
    before, after = weights_of(base), weights_of(tmp_path / "whole")
    assert before.keys() == after.keys() == index["weight_map"].keys()
    factors = load_file(tmp_path / "peft" / WEIGHTS)
    for name, weight in before.items():
        assert after[name].dtype == NUMPY[kept]
        if name.endswith(("v_proj.weight", "down_proj.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            a, b = (factors[f"{stem}.lora_{factor}.weight"] for factor in "AB")
            weight = (weight.astype(np.float32) + np.float32(3 / 4) * (b @ a)).astype(weight.dtype)
            assert (weight != before[name]).mean() > 0.5
        np.testing.assert_array_equal(after[name], weight, err_msg=name)
    transformer(tmp_path / "whole")


def test_every_family_goes_out_as_it_came(family, tokenizer, tmp_path):  # noqa: F811
    directory, model = family
    run("merge", "--model", directory, "--output", tmp_path / "whole")
    before, after = weights_of(directory), weights_of(tmp_path / "whole")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        np.testing.assert_array_equal(after[name], weight, err_msg=name)
    tokens = prompt(tokenizer)
    found = torch_logits(transformer(tmp_path / "whole"), tokens)
    np.testing.assert_array_equal(found, torch_logits(model, tokens))
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "whole" / name).read_text()) == (
            json.loads((directory / name).read_text())
        )


def test_another_dtype_is_on_record(tiny_checkpoint, tmp_path):
    run("merge", "--model", tiny_checkpoint, "--dtype", "bfloat16", "--output", tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    before = weights_of(tiny_checkpoint)
    for name, weight in weights_of(tmp_path / "whole").items():
        np.testing.assert_array_equal(weight, before[name].astype(ml_dtypes.bfloat16))
    card = ModelCard.load(tmp_path / "whole" / "README.md")
    assert card.data.library_name == "transformers" and "in bfloat16" in card.text


def test_what_is_made_of_other_tensors_is_left_out(tiny_tied_checkpoint, tmp_path):
    copy = shutil.copytree(tiny_tied_checkpoint, tmp_path / "copy")
    weights = weights_of(copy)
    more = {
        "lm_head.weight": weights["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    }
    save_file(weights | more, copy / "model.safetensors", metadata={"format": "pt"})
    run("merge", "--model", copy, "--output", tmp_path / "whole")
    assert weights_of(tmp_path / "whole").keys() == weights.keys()


def plain(fields):
    fields["rope_freqs"], fields["context_length"] = None, 512


def test_a_gguf_file_becomes_a_directory(tiny_checkpoint, load, tokenizer, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_checkpoint, Kind.Q8_0, change=plain)
    run("merge", "--model", file, "--output", tmp_path / "whole")
    tokens = prompt(tokenizer)
    wanted = logits(nnx.merge(*load(file)), trie_of(tokens))
    np.testing.assert_array_equal(
        logits(nnx.merge(*load(tmp_path / "whole")), trie_of(tokens)), wanted
    )
    found = torch_logits(transformer(tmp_path / "whole"), tokens)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["dtype"]) == (512, "float32")
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "whole")("1 of 10")["input_ids"]
        == (tokenizer("1 of 10")["input_ids"])
    )


# export-adapter


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, tmp_path_factory):
    """A run with the checkpoints of two steps."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = small_config(tiny_checkpoint, checkpoint__every_steps=7, checkpoint__keep=5)
    train.main(config, workdir)
    assert convert.saved_steps(workdir / "checkpoints")[-1] == 12
    return workdir


def adapter_files(directory):
    return {name: (directory / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def test_a_run_gives_the_adapter_that_it_wrote(finished, tmp_path):
    run("export-adapter", "--run", finished, "--output", tmp_path / "adapter")
    assert adapter_files(tmp_path / "adapter") == adapter_files(finished / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card == (finished / "adapter" / "README.md").read_text()
    assert "- survey: gss2018 (digest " in card
    assert "- held out: nothing held out\n" in card and "- steps: 12\n" in card


def test_a_run_that_was_stopped_gives_an_adapter_too(tiny_checkpoint, finished, tmp_path):
    train.main(small_config(tiny_checkpoint, max_steps=7), tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "adapter")
    run("export-adapter", "--run", tmp_path / "stopped", "--output", tmp_path / "one")
    run("export-adapter", "--run", finished, "--step", 7, "--output", tmp_path / "other")
    assert adapter_files(tmp_path / "one") == adapter_files(tmp_path / "other")
    assert adapter_files(tmp_path / "one") != adapter_files(finished / "adapter")
    PeftModel.from_pretrained(transformer(tiny_checkpoint), tmp_path / "one")


# import-adapter


def test_an_adapter_is_bound_to_a_base(tiny_checkpoint, tokenizer, load, tmp_path):
    adapted = random_adapter(transformer(tiny_checkpoint), tmp_path / "peft", rslora=True)
    run("import-adapter", "--adapter", tmp_path / "peft", "--model", tiny_checkpoint,
        "--output", tmp_path / "ours")  # fmt: skip
    identity = fingerprint(open_checkpoint(str(tiny_checkpoint)).source)
    with safe_open(tmp_path / "ours" / WEIGHTS, framework="numpy") as handle:
        assert handle.metadata()["base_fingerprint"] == identity
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("peft", "ours"))
    assert json.loads((tmp_path / "ours" / CONFIG).read_text())["target_modules"] == list(TARGETS)
    assert before.keys() == after.keys()
    for name, factor in before.items():
        np.testing.assert_array_equal(after[name], factor)
    tokens = prompt(tokenizer)
    found = logits(nnx.merge(*load(tiny_checkpoint, tmp_path / "ours")), trie_of(tokens))
    np.testing.assert_allclose(found, torch_logits(adapted, tokens), rtol=0, atol=1e-4)
    ModelCard.load(tmp_path / "ours" / "README.md")


def test_a_record_stays_with_the_base_it_tells_of(tiny_checkpoint, rewritten, tmp_path, capsys):
    random_adapter(transformer(tiny_checkpoint), tmp_path / "peft", targets=["q_proj"])
    importing = ("import-adapter", "--adapter", tmp_path / "peft", "--model", tiny_checkpoint)
    run(*importing, "--output", tmp_path / "one")
    (tmp_path / "one" / RECORD).write_text('{"seed": 3}')
    other = rewritten("float16")  # of another fingerprint
    for model, name in ((tiny_checkpoint, "same"), (other, "other")):
        run("import-adapter", "--adapter", tmp_path / "one", "--model", model,
            "--output", tmp_path / name)  # fmt: skip
        dropped = f"{RECORD} is left out" in capsys.readouterr().err
        assert read_record(tmp_path / name) == (None if name == "other" else {"seed": 3})
        assert dropped == (name == "other")


def test_an_adapter_of_another_base_is_merged_only_after_it_is_bound(
    finished, tiny_checkpoint, rewritten, tmp_path
):
    other = rewritten("float32")
    weights = weights_of(other)
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    merging = ("merge", "--model", other, "--output", tmp_path / "whole", "--adapter")
    with pytest.raises(InputError, match="was trained on another base model"):
        run(*merging, finished / "adapter")
    assert not (tmp_path / "whole").exists()
    run("import-adapter", "--adapter", finished / "adapter", "--model", other,
        "--output", tmp_path / "bound")  # fmt: skip
    run(*merging, tmp_path / "bound")


# inspect


def test_inspect_tells_of_an_adapter_and_of_a_run(finished, tiny_checkpoint, capsys):
    facts = described(capsys, finished / "adapter")
    identity = fingerprint(open_checkpoint(str(tiny_checkpoint)).source)
    assert (facts["targets"], facts["rank"], facts["scale"]) == (["q_proj", "v_proj"], 2, 8.0)
    assert (facts["base model"], facts["base fingerprint"]) == (str(tiny_checkpoint), identity)
    assert facts["sha256"] == sha256_of([finished / "adapter" / name for name in (CONFIG, WEIGHTS)])
    facts = described(capsys, finished)
    assert (facts["model"], facts["template"]) == (str(tiny_checkpoint), "question_first")
    assert (facts["survey"], facts["hold-out"], facts["steps done"]) == ("gss2018", "none", 12)
    assert facts["checkpoints"][-1] == 12 and facts["adapter"] == str(finished / "adapter")


def test_inspect_tells_of_a_run_that_was_killed(finished, tmp_path, capsys):
    shutil.copy(finished / "experiment.json", tmp_path)
    facts = described(capsys, tmp_path)
    assert (facts["steps done"], facts["checkpoints"]) == (0, [])
    assert facts["adapter"] == "not written yet"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert described(capsys, tmp_path)["steps done"] == 2
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(InputError, match="not a whole experiment record"):
        run("inspect", tmp_path)


# Refusals: one line, and nothing written.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export-adapter --run {run} --step 3", r"--step 3: .* has .*12"),
        (
            "export-adapter --run {tiny}",
            r"not a run of ace_jax\.train, experiment\.json is",
        ),
        ("merge --model {tiny} --shard-size many", r"--shard-size many: "),
        ("merge --model /no/where", r"'/no/where' is no directory, \.gguf file, hub id"),
        ("merge --model {tiny} --adapter {tiny}", r"not a PEFT adapter"),
        ("merge --model {tied} --adapter {run}/adapter", r"was trained on another base model"),
        ("merge --model {stretched}", r"stretches RoPE by factors that no config\.json can"),
        ("merge --model {huge} --dtype float16", r"norm\.weight: float16 cannot hold its values"),
        ("import-adapter --adapter {run} --model {tiny}", r"not a PEFT adapter"),
        ("import-adapter --adapter {none} --model {tiny}", r"lora\.targets: 'wq'; choose from"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments, message, finished, tiny_checkpoint, tiny_tied_checkpoint, tmp_path
):
    stretched = write_gguf(tmp_path / "stretched.gguf", tiny_checkpoint,
                           change=lambda fields: fields.update(context_length=512))  # fmt: skip
    huge = shutil.copytree(tiny_checkpoint, tmp_path / "huge")
    weights = weights_of(huge) | {"model.norm.weight": np.full(64, 1e6, np.float32)}
    save_file(weights, huge / "model.safetensors", metadata={"format": "pt"})
    none = shutil.copytree(finished / "adapter", tmp_path / "none")
    described = json.loads((none / CONFIG).read_text())
    (none / CONFIG).write_text(json.dumps(described | {"target_modules": ["q_proj", "wq"]}))
    before = set(tmp_path.iterdir())
    places = {
        "run": finished,
        "tiny": tiny_checkpoint,
        "tied": tiny_tied_checkpoint,
        "stretched": stretched,
        "huge": huge,
        "none": none,
    }
    with pytest.raises(InputError, match=message) as error:
        run(*arguments.format(**places).split(), "--output", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert set(tmp_path.iterdir()) == before


def test_an_output_in_use_is_left_alone(tiny_checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for output in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(InputError, match=r"is not empty|is a file; name a directory"):
            run("merge", "--model", tiny_checkpoint, "--output", output)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
