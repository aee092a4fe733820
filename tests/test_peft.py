"""Adapter files: a round trip that changes no bit, what peft makes of them, every refusal."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from huggingface_hub import ModelCard
from ml_collections import ConfigDict
from peft import PeftModel
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_llama import logits, prompt, torch_logits, trie_of
from transformers import AutoModelForCausalLM

from ace_jax.errors import InputError
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.cards import card
from ace_jax.model.formats.hf import fingerprint
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.formats.peft import (
    CONFIG,
    DIGEST,
    RECORD,
    WEIGHTS,
    BaseModel,
    adapter_config,
    factors_of,
    load_adapter,
    read_factors,
    read_lora_config,
    read_record,
    write_adapter,
)
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import ATTENTION_TARGETS, MLP_TARGETS, TARGETS, LoRAConfig, targets_of

LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.1, targets=("q_proj", "o_proj", "down_proj"))
BASE = "0123456789abcdef" * 4
NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
FACTS = {"survey": "wvs7", "held out": "question:0.2"}
CARD = card("adapter", BaseModel("some/llama", BASE), lora=LORA, facts=FACTS)


@pytest.fixture(scope="module")
def abstract(tiny_checkpoint):
    config = open_checkpoint(str(tiny_checkpoint)).config
    return abstract_model(config, LORA, base_dtype("float32")).lora


@pytest.fixture
def adapter(abstract, tmp_path):
    """A directory with a random adapter, and its parameters."""
    draw = np.random.default_rng(0)
    lora = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), abstract)
    write_adapter(tmp_path / "adapter", factors_of(lora), LORA, BaseModel("some/llama", BASE), CARD)
    return tmp_path / "adapter", lora


def test_round_trip_is_bit_equal(adapter, abstract, mesh):
    directory, lora = adapter
    loaded = load_adapter(directory, abstract, mesh)
    assert jax.tree.structure(loaded) == jax.tree.structure(lora)
    jax.tree.map(np.testing.assert_array_equal, loaded, lora)
    assert read_lora_config(directory, dropout=0.1) == LORA
    assert read_lora_config(directory, dropout=0.0).dropout == 0.0


def test_files_are_as_peft_lays_them(adapter):
    directory, lora = adapter
    weights = load_file(directory / WEIGHTS)
    assert len(weights) == 2 * 2 * 3
    np.testing.assert_array_equal(weights[NAME], lora["layers"]["q_proj"]["lora"]["a"][...][1].T)
    description = json.loads((directory / CONFIG).read_text())
    assert description["base_model_name_or_path"] == "some/llama"
    assert (description["r"], description["lora_alpha"]) == (4, 8.0)
    with safe_open(directory / WEIGHTS, framework="numpy") as handle:
        metadata = handle.metadata()
        assert len(metadata.pop(DIGEST)) == 64
        assert metadata == {"format": "pt", "base_fingerprint": BASE}


def test_the_card_is_one_that_the_hub_reads(adapter):
    read = ModelCard.load(adapter[0] / "README.md")
    assert read.data.to_dict() == {
        "base_model": "some/llama",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "ace-align", "survey"],
    }
    for told in ("- survey: wvs7\n- held out: question:0.2\n", "Rank 4, alpha 8", BASE):
        assert told in read.text
    bare = card("adapter", BaseModel("built-in"), lora=LORA, facts={})
    assert "Training" not in bare and "fingerprint" not in bare and "PeftModel" not in bare


def test_an_adapter_is_replaced_as_a_whole(adapter):
    directory, lora = adapter
    (directory / RECORD).write_text("of before")
    record = {"survey": {"name": "wvs7"}, "seed": 3}
    write_adapter(directory, factors_of(lora), LORA, BaseModel("other/llama"), "card", record)
    assert {file.name for file in directory.iterdir()} == {CONFIG, WEIGHTS, RECORD, "README.md"}
    assert read_record(directory) == record
    (directory / RECORD).write_text("{")
    with pytest.raises(InputError, match=r"ace_experiment\.json: not JSON"):
        read_record(directory)
    (directory / CONFIG).unlink()
    with pytest.raises(
        InputError, match=r"adapter exists and is not empty: README\.md, .* would be lost"
    ):
        write_adapter(directory, factors_of(lora), LORA, BaseModel("other/llama"), "card")


@pytest.mark.parametrize(
    ("targets", "rslora"), [(ATTENTION_TARGETS, False), (MLP_TARGETS, True), (TARGETS, True)]
)
def test_peft_gives_the_same_logits(targets, rslora, tiny_checkpoint, load, tokenizer, tmp_path):
    config = LoRAConfig(rank=4, alpha=3.0, dropout=0.0, targets=targets, rslora=rslora)
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    abstract = abstract_model(checkpoint.config, config, base_dtype("float32")).lora
    draw = np.random.default_rng(0)
    lora = jax.tree.map(lambda leaf: draw.normal(0, 0.1, leaf.shape).astype(np.float32), abstract)
    base = BaseModel(str(tiny_checkpoint), fingerprint(checkpoint.source))
    write_adapter(tmp_path, factors_of(lora), config, base, "")

    tokens = prompt(tokenizer)
    bare = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    without = torch_logits(bare, tokens)
    wanted = torch_logits(PeftModel.from_pretrained(bare, tmp_path).eval(), tokens)
    found = logits(nnx.merge(*load(tiny_checkpoint, tmp_path)), trie_of(tokens))
    assert np.abs(wanted - without).max() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert read_lora_config(tmp_path) == config


def test_rslora_is_a_scale_of_its_own():
    plain = LoRAConfig(rank=16, alpha=8.0, dropout=0.0, targets=("q_proj",))
    assert plain.scale == 0.5
    assert LoRAConfig(16, 8.0, 0.0, ("q_proj",), rslora=True).scale == 2.0


def test_all_linear_stands_for_all_seven(adapter):
    assert targets_of("all-linear") == targets_of(("all-linear",)) == TARGETS
    assert targets_of(["q_proj"]) == ("q_proj",)
    directory, _ = adapter
    change(directory, target_modules="all-linear")
    assert read_lora_config(directory).targets == TARGETS


def test_the_config_or_the_adapter_to_start_from_gives_the_shape(adapter):
    fields = {"rank": 2, "alpha": 4.0, "dropout": 0.3, "targets": ("all-linear",), "rslora": True}
    assert adapter_config(ConfigDict(fields | {"init_from": None})) == LoRAConfig(
        2, 4.0, 0.3, TARGETS, rslora=True
    )
    shape = adapter_config(ConfigDict(fields | {"init_from": str(adapter[0])}))
    assert (shape.rank, shape.targets, shape.dropout) == (LORA.rank, LORA.targets, 0.3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_shorter_dtypes_are_read_as_float32(adapter, abstract, mesh, dtype):
    directory, lora = adapter
    short = {name: weight.astype(dtype) for name, weight in load_file(directory / WEIGHTS).items()}
    save_file(short, directory / WEIGHTS, metadata={"format": "pt"})
    loaded = load_adapter(directory, abstract, mesh, BASE)  # without a fingerprint: by shape
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(one, other.astype(dtype)), loaded, lora
    )


def test_an_adapter_of_another_base_is_refused(adapter, abstract, mesh):
    directory, _ = adapter
    assert load_adapter(directory, abstract, mesh, BASE)
    expected = r"trained on another base model \(some/llama, .*convert import-adapter` if that is"
    with pytest.raises(InputError, match=expected):
        load_adapter(directory, abstract, mesh, BASE[::-1])


def change(directory, **fields):
    description = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(description | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alora_invocation_tokens": 0}, "alora_invocation_tokens is not supported"),
        ({"of_a_later_peft": 1.0}, "of_a_later_peft is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changes the base model too"),
        ({"init_lora_weights": "lora_ga"}, "'lora_ga' changes the base model too"),
        ({"peft_type": "IA3"}, "peft_type is not LORA"),
        ({"target_modules": ".*_proj"}, r"target_modules '\.\*_proj' is not a list of layer names"),
        ({"target_modules": ["lm_head"]}, r"config\.json: lora.targets: 'lm_head'; choose from q_"),
        ({"r": 0}, "lora.rank: 0 is not a positive number"),
    ],
)
def test_descriptions_of_other_adapters_are_refused(adapter, fields, message):
    directory, _ = adapter
    change(directory, **fields)
    with pytest.raises(InputError, match=message):
        read_lora_config(directory, dropout=0.0)


@pytest.mark.parametrize("field", ["r", "lora_alpha"])
def test_a_missing_number_is_named(adapter, field):
    directory, _ = adapter
    description = json.loads((directory / CONFIG).read_text())
    del description[field]
    (directory / CONFIG).write_text(json.dumps(description))
    with pytest.raises(InputError, match=rf"adapter_config\.json: {field} None is not a number"):
        read_lora_config(directory, dropout=0.0)


def test_a_description_that_is_missing_or_not_json(adapter):
    directory, _ = adapter
    (directory / CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json: not JSON"):
        read_lora_config(directory, dropout=0.0)
    (directory / CONFIG).unlink()
    with pytest.raises(
        InputError, match=r"adapter: not a PEFT adapter, adapter_config\.json is missing"
    ):
        read_lora_config(directory, dropout=0.0)


def without(weights):
    del weights[NAME]


def wider(weights):
    weights[NAME] = np.zeros((5, 64), np.float32)


def not_finite(weights):
    weights[NAME][0, 3] = np.inf


def with_more(weights):
    weights[NAME.replace("layers.1", "layers.2")] = weights[NAME]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without, r"missing \S+layers\.1\.self_attn\.q_proj\.lora_A\.weight"),
        (wider, r"lora_A.weight has shape \(5, 64\), the model needs \(4, 64\)"),
        (not_finite, rf"adapter_model\.safetensors: {NAME} holds NaN or infinity"),
        (with_more, r"unknown \S+layers\.2\.self_attn\.q_proj\.lora_A\.weight"),
    ],
)
def test_weights_of_another_model_are_refused(adapter, abstract, mesh, damage, message):
    directory, _ = adapter
    weights = load_file(directory / WEIGHTS)
    damage(weights)
    save_file(weights, directory / WEIGHTS)
    with pytest.raises(InputError, match=message):
        load_adapter(directory, abstract, mesh)


def test_all_that_is_wrong_is_told_at_once(adapter, abstract, mesh):
    directory, _ = adapter
    weights = load_file(directory / WEIGHTS)
    both = {name: weight for name, weight in weights.items() if "o_proj.lora_B" not in name}
    both |= {name: weight[:, 1:] for name, weight in both.items() if "q_proj.lora_A" in name}
    save_file(
        {name: np.ascontiguousarray(weight) for name, weight in both.items()}
        | {"x": np.zeros(1, np.float32)},
        directory / WEIGHTS,
    )
    with pytest.raises(InputError) as error:
        load_adapter(directory, abstract, mesh)
    _, told = str(error.value).split(": ", 1)
    stems = [f"base_model.model.model.layers.{layer}.self_attn" for layer in (0, 1)]
    assert told.split("; ") == [
        *(f"missing {stem}.o_proj.lora_B.weight" for stem in stems),
        "unknown x",
        *(
            f"{stem}.q_proj.lora_A.weight has shape (4, 63), the model needs (4, 64)"
            for stem in stems
        ),
    ]


def test_weights_that_are_damaged_or_missing(adapter, abstract, mesh):
    directory, _ = adapter
    whole = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(whole[:-10])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_adapter(directory, abstract, mesh)
    (directory / WEIGHTS).unlink()
    (directory / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match="pickled adapters are not read"):
        load_adapter(directory, abstract, mesh)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_an_adapter_that_was_changed_is_refused_unless_it_is_imported(adapter, file):
    directory, lora = adapter
    content = bytearray((directory / file).read_bytes())
    if file == WEIGHTS:
        content[-1] ^= 1  # of the last weight
    else:
        content = content.replace(b'"lora_alpha": ', b'"lora_alpha": 1')
    (directory / file).write_bytes(content)
    with pytest.raises(InputError, match="is not what was written; restore it"):
        read_factors(directory, lora, BASE)
    assert read_factors(directory, lora, None)
