"""Adapter files: a round trip that changes no bit, and every way to be refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ace_jax.errors import InputError
from ace_jax.interop.hub import open_checkpoint
from ace_jax.interop.peft import (
    CONFIG,
    WEIGHTS,
    export_adapter,
    load_adapter,
    model_card,
    read_lora_config,
)
from ace_jax.model.architecture import base_dtype
from ace_jax.model.lora import LoRAConfig
from ace_jax.training.state import abstract_model

LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.1, targets=("q_proj", "o_proj", "down_proj"))
NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def abstract(tiny_checkpoint):
    config = open_checkpoint(str(tiny_checkpoint)).config
    return abstract_model(config, LORA, base_dtype("float32")).lora


@pytest.fixture
def adapter(abstract, tmp_path):
    """A directory with a random adapter, and its parameters."""
    draw = np.random.default_rng(0)
    lora = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), abstract)
    card = model_card("some/llama", "data/wvs7", LORA, steps=7)
    export_adapter(tmp_path / "adapter", lora, LORA, "some/llama", card)
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
    card = (directory / "README.md").read_text()
    assert card.startswith("---\nbase_model: some/llama\n") and "7 steps" in card


def change(directory, **fields):
    description = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(description | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_rslora": True}, "use_rslora is not supported"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is not supported"),
        ({"bias": "all"}, "bias is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is not supported"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"layers_to_transform": [0]}, "layers_to_transform is not supported"),
        ({"peft_type": "IA3"}, "peft_type is not LORA"),
        ({"target_modules": "all-linear"}, "target_modules is not a list"),
        ({"target_modules": ["lm_head"]}, "lora.targets: 'lm_head'; choose from q_proj"),
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
    with pytest.raises(InputError, match=rf"adapter_config\.json: .*\b{field} None.* is no number"):
        read_lora_config(directory, dropout=0.0)


def test_a_description_that_is_missing_or_not_json(adapter):
    directory, _ = adapter
    (directory / CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json: cannot be read"):
        read_lora_config(directory, dropout=0.0)
    (directory / CONFIG).unlink()
    with pytest.raises(InputError, match=r"not a PEFT adapter, adapter_config\.json is missing"):
        read_lora_config(directory, dropout=0.0)


def without(weights):
    del weights[NAME]


def wider(weights):
    weights[NAME] = np.zeros((5, 64), np.float32)


def with_more(weights):
    weights[NAME.replace("layers.1", "layers.2")] = weights[NAME]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without, r"layers.1.self_attn.q_proj.lora_A.weight is missing; the model needs \(4, 64\)"),
        (wider, r"lora_A.weight has shape \(5, 64\); the model needs \(4, 64\)"),
        (with_more, "layers.2.self_attn.q_proj.lora_A.weight belongs to no layer"),
    ],
)
def test_weights_of_another_model_are_refused(adapter, abstract, mesh, damage, message):
    directory, _ = adapter
    weights = load_file(directory / WEIGHTS)
    damage(weights)
    save_file(weights, directory / WEIGHTS)
    with pytest.raises(InputError, match=message):
        load_adapter(directory, abstract, mesh)


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
