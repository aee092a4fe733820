"""Safetensors directories: what is read of them, and what is refused."""

import json
import re
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig, base_dtype
from ace_jax.model.formats.hf import (
    SafetensorsSource,
    fingerprint,
    hf_names,
    load_base,
)
from ace_jax.model.llama import abstract_model
from ace_jax.model.sharding import make_mesh, parameter_path

INDEX = "model.safetensors.index.json"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}


def shapes_of(config):
    """Returns the shape of each tensor of a LLaMA, as transformers names and orders them."""
    width, inner, vocabulary = (
        config[name] for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    heads = width // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (heads, width),
        "self_attn.v_proj": (heads, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    return {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocabulary, width),
        **{
            f"model.layers.{number}.{name}.weight": shape
            for number in range(config["num_hidden_layers"])
            for name, shape in layer.items()
        },
    }


def random_weights(dtype=np.float32):
    draw = np.random.default_rng(0)
    return {
        name: draw.normal(size=shape).astype(np.float32).astype(dtype)
        for name, shape in shapes_of(CONFIG).items()
    }


def shard_name(number, of):
    return f"model-{number + 1:05d}-of-{of:05d}.safetensors"


def save_shards(directory, shards):
    """Writes shards one by one, and the index over them."""
    directory.mkdir(exist_ok=True)
    shard_of = {}
    for number, weights in enumerate(shards):
        name = shard_name(number, len(shards))
        save_file(weights, directory / name, metadata={"format": "pt"})
        shard_of |= dict.fromkeys(weights, name)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return directory


def in_three(weights):
    """Cuts a checkpoint in three, layers across shards."""
    names = list(weights)
    return [{name: weights[name] for name in names[part::3]} for part in range(3)]


@pytest.fixture
def sharded(tmp_path):
    return save_shards(tmp_path / "sharded", in_three(random_weights()))


def load(source, mesh, dtype="float32", config=CONFIG):
    base = abstract_model(LlamaConfig.from_hf(config), None, base_dtype(dtype)).base
    return load_base(base, source, mesh)


def stored(state):
    """Turns loaded parameters back into tensors under Hugging Face names."""
    tensors = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        path = parameter_path(tree_path)
        values = np.asarray(leaf).swapaxes(-1, -2) if path[-1] == "kernel" else np.asarray(leaf)
        names = hf_names(path, leaf.shape[0])
        tensors |= zip(names, values if path[0] == "layers" else [values], strict=True)
    return tensors


# What is read.


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_every_dtype_is_read_bit_for_bit(tmp_path, mesh, dtype):
    weights = random_weights(dtype)
    found = stored(load(SafetensorsSource(save_shards(tmp_path, in_three(weights))), mesh))
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], weight.astype(np.float32), name)


def test_float32_is_rounded_to_a_bfloat16_model(sharded, mesh):
    found = stored(load(SafetensorsSource(sharded), mesh, "bfloat16"))
    for name, weight in random_weights().items():
        np.testing.assert_array_equal(found[name], weight.astype(ml_dtypes.bfloat16), name)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str)
def test_every_mesh_gets_the_same_weights(sharded, sizes):
    found = stored(load(SafetensorsSource(sharded), make_mesh(*sizes)))
    for name, weight in random_weights().items():
        np.testing.assert_array_equal(found[name], weight, name)


def test_replicas_share_one_reading(sharded):
    class Counted(SafetensorsSource):
        reads = 0

        def read(self, name, index):
            self.reads += 1
            return super().read(name, index)

    source = Counted(sharded)
    load(source, make_mesh(8, 1, 1))
    assert source.reads == len(source.stored)


def test_a_model_of_one_layer(tmp_path, mesh):
    config = CONFIG | {"num_hidden_layers": 1}
    weights = {name: random_weights()[name] for name in shapes_of(config)}
    found = stored(load(SafetensorsSource(save_shards(tmp_path, [weights])), mesh, config=config))
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight, name)


def test_the_index_says_which_files_are_read(sharded):
    (sharded / "consolidated.safetensors").write_bytes(b"the same in another layout")
    save_file({"other": np.zeros(3)}, sharded / "model.safetensors")
    source = SafetensorsSource(sharded)
    assert [file.name for file in source.files] == [shard_name(number, 3) for number in range(3)]
    assert set(source.stored) == random_weights().keys()


def test_without_an_index_it_is_model_safetensors(tmp_path):
    save_file(random_weights(), tmp_path / "model.safetensors")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"something else")
    assert SafetensorsSource(tmp_path).files == (tmp_path / "model.safetensors",)


def test_without_either_it_is_what_there_is(sharded):
    (sharded / INDEX).unlink()
    assert len(SafetensorsSource(sharded).files) == 3


# What identifies a base model.


def test_a_fingerprint_is_that_of_the_values(tmp_path):
    rounded = random_weights(ml_dtypes.bfloat16)
    exact = {name: weight.astype(np.float32) for name, weight in rounded.items()}
    single = tmp_path / "single"
    single.mkdir()
    save_file(rounded, single / "model.safetensors")
    found = {
        fingerprint(SafetensorsSource(directory))
        for directory in (
            single,
            save_shards(tmp_path / "bfloat16", in_three(rounded)),
            save_shards(tmp_path / "float32", in_three(exact)),
        )
    }
    assert len(found) == 1
    assert re.fullmatch("[0-9a-f]{64}", found.pop())


def test_a_fingerprint_changes_with_any_tensor(tmp_path):
    class Changed(SafetensorsSource):
        def __init__(self, directory, tensor, shape=None, add=0.0):
            super().__init__(directory)
            self.change = (tensor, shape, add)

        def shape(self, name):
            tensor, shape, _ = self.change
            return shape if shape and name == tensor else super().shape(name)

        def read(self, name, index):
            tensor, _, add = self.change
            part = super().read(name, index)
            return part + add if name == tensor else part

    directory = save_shards(tmp_path, in_three(random_weights()))
    found = {fingerprint(SafetensorsSource(directory))}
    for name, shape in shapes_of(CONFIG).items():
        found.add(fingerprint(Changed(directory, name, add=0.5)))
        found.add(fingerprint(Changed(directory, name, shape=(shape[0] + 1, *shape[1:]))))
    assert len(found) == 1 + 2 * len(shapes_of(CONFIG))


# What is refused.


def refused(directory, message, read=SafetensorsSource):
    with pytest.raises(InputError, match=message) as error:
        read(directory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"metadata": {}}', "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": ["a"]}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "3 is not the name of a file beside it"),
        ('{"weight_map": {"a": "../x.safetensors"}}', r"'\.\./x\.safetensors' is not the name"),
        ('{"weight_map": {"a": "/x.safetensors"}}', r"'/x\.safetensors' is not the name"),
        ('{"weight_map": {"a": ".."}}', r"\.\. missing beside it"),
    ],
)
def test_a_damaged_index(sharded, content, message):
    save_file(random_weights(), sharded.parent / "x.safetensors")  # it is there, but outside
    (sharded / INDEX).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(sharded, rf"index\.json: {message}")


def test_missing_shards_are_all_named(sharded):
    for number in (0, 2):
        (sharded / shard_name(number, 3)).unlink()
    missing = rf"{shard_name(0, 3)}, {shard_name(2, 3)} missing beside it"
    refused(sharded, rf"index\.json: {missing}")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_shard_cut_short(sharded, share):
    shard = sharded / shard_name(1, 3)
    shard.write_bytes(shard.read_bytes()[: int(share * shard.stat().st_size)])
    refused(sharded, rf"{shard.name}: truncated or damaged .*; fetch it again")


@pytest.mark.parametrize("indexed", [True, False])
def test_a_tensor_in_two_files(tmp_path, indexed):
    weights = random_weights()
    one, two, _ = in_three(weights)
    doubled = "model.layers.1.input_layernorm.weight"
    save_shards(tmp_path, [one | {doubled: weights[doubled]}, two | {doubled: weights[doubled]}])
    if not indexed:
        (tmp_path / INDEX).unlink()
    refused(tmp_path, rf"{shard_name(0, 2)} and {shard_name(1, 2)} hold {re.escape(doubled)}")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(ml_dtypes.float8_e4m3fn, "F8_E4M3"), (np.int8, "I8"), (np.int32, "I32"), (np.float64, "F64")],
)
def test_other_dtypes(sharded, dtype, name):
    shard = sharded / shard_name(0, 3)
    weights = load_file(shard)
    for layer in range(3):
        weights[f"model.layers.{layer}.x"] = np.zeros((2, 2), dtype)
    save_file(weights, shard)
    refused(sharded, rf"model\.layers\.2\.x is {name}; only F32, F16, BF16 are read, .*quantised")


def test_nothing_is_read_of_what_does_not_fit(tmp_path, mesh, monkeypatch):
    """What is wrong is said, in one line, before a weight is read."""
    weights = random_weights()
    for layer in range(3):
        del weights[f"model.layers.{layer}.self_attn.q_proj.weight"]
    del weights["model.layers.0.mlp.up_proj.weight"], weights["model.layers.2.mlp.up_proj.weight"]
    for name in ("model.layers.1.x", "model.layers.2.x", "y"):
        weights[name] = np.zeros((2,), np.float32)
    weights["model.norm.weight"] = np.zeros((5,), np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(SafetensorsSource, "read", lambda *_: pytest.fail("read too early"))
    problems = [
        "missing model.layers.0.mlp.up_proj.weight",
        "missing model.layers.0.self_attn.q_proj.weight",
        "missing model.layers.1.self_attn.q_proj.weight",
        "missing model.layers.2.mlp.up_proj.weight",
        "missing model.layers.2.self_attn.q_proj.weight",
        "unknown model.layers.1.x",
        "unknown model.layers.2.x",
        "unknown y",
        "and 1 more",
    ]
    expected = re.escape(f"checkpoint does not fit its config.json: {'; '.join(problems)}") + "$"
    refused(SafetensorsSource(tmp_path), expected, partial(load, mesh=mesh))


def test_a_rotary_table_and_a_repeated_head_are_left_aside(tmp_path, mesh):
    weights = random_weights()
    for layer in range(3):
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    tied = CONFIG | {"tie_word_embeddings": True}
    found = stored(load(SafetensorsSource(tmp_path), mesh, config=tied))
    assert found.keys() == shapes_of(CONFIG).keys() - {"lm_head.weight"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_value_that_is_not_finite_is_refused_by_name(tmp_path, mesh, dtype, value):
    weights, name = random_weights(dtype), "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 5] = float(value)
    directory = save_shards(tmp_path / "model", in_three(weights))
    refused(
        SafetensorsSource(directory),
        rf"model: {re.escape(name)} holds NaN or infinity; fetch it again",
        partial(load, mesh=mesh),
    )


def test_huge_values_are_finite(tmp_path):
    huge = np.full((2, 4), 3e38, np.float32)  # their sum is not
    save_file({"x": huge}, tmp_path / "model.safetensors")
    read = SafetensorsSource(tmp_path).read("x", (slice(None), slice(None)))
    np.testing.assert_array_equal(read, huge)
