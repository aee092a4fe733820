"""Checkpoints and adapters as transformers and peft read them: the same answers, or a refusal.

Every key that those libraries and llama.cpp read is in a table: read, of no effect, or refused.
"""

import json
import re
from dataclasses import fields, replace
from functools import partial

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx
from safetensors.torch import save_file
from test_gguf import write_gguf
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import RopeParameters

from ace_jax.errors import InputError
from ace_jax.model.architecture import ROPE_KEYS, LlamaConfig, Rope, base_dtype
from ace_jax.model.formats.gguf import FIELDS, GGUFSource
from ace_jax.model.formats.hf import SafetensorsSource, load_base
from ace_jax.model.formats.peft import CONFIG, IGNORED, READ, load_adapter, read_lora_config
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import TARGETS, LoRAConfig

TOLERANCE = 1e-5  # of an option's probability
PROMPTS = np.random.default_rng(0).integers(0, 64, (4, 40), np.int32)
OPTIONS = [3, 5, 7, 11, 13]
BASE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}
MISTRAL, QWEN2, QWEN3 = (
    {"model_type": name.lower(), "architectures": [f"{name}ForCausalLM"]}
    for name in ("Mistral", "Qwen2", "Qwen3")
)
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
OLD_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

# What transformers' configs have besides, with values that are far from usual.
NO_EFFECT = {
    "attention_dropout": 0.3,
    "bos_token_id": 7,
    "chunk_size_feed_forward": 2,
    "dtype": "bfloat16",
    "eos_token_id": [8, 9],
    "id2label": {"0": "x"},
    "initializer_range": 0.9,
    "is_encoder_decoder": False,
    "label2id": {"x": 0},
    "max_window_layers": 1,
    "output_hidden_states": True,
    "pad_token_id": 6,
    "pretraining_tp": 2,
    "problem_type": "regression",
    "return_dict": True,
    "transformers_version": "4.40.0",
    "use_cache": False,
}
AGREED = {
    "Llama 2": {},
    "no theta": {"rope_theta": None},
    "Llama 3": {"rope_theta": 500000},
    "theta of transformers 5": {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5}},
    "theta twice": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    "default by type": {"rope_scaling": {"type": "default"}},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear of transformers 4.45": {"rope_scaling": LINEAR | {"type": "linear"}},
    "linear of transformers 5": {"rope_parameters": LINEAR},
    "linear twice": {"rope_parameters": LINEAR, "rope_scaling": {"type": "linear", "factor": 4}},
    "Llama 3.1": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    "Llama 3.1 of transformers 5": {"rope_parameters": LLAMA3 | {"rope_theta": 1e4}},
    "YaRN": {"rope_scaling": OLD_YARN},
    "YaRN of transformers 5": {"rope_parameters": YARN | {"rope_theta": 1e4}},
    "YaRN, length of another factor": {"rope_scaling": OLD_YARN | {"factor": 2.0}},
    "YaRN, length outside": {
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": 32,
    },
    "YaRN, attention": {"rope_scaling": YARN | {"attention_factor": 0.7}},
    "YaRN, ramp": {"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 0.5, "truncate": False}},
    "no architectures": {"architectures": None},
    "whatever has no effect": NO_EFFECT,
    "Mistral": MISTRAL | {"sliding_window": None},
    "Mistral, window": MISTRAL | {"sliding_window": 40},
    "tied": {"tie_word_embeddings": True},
    "tied, head repeated": {"tie_word_embeddings": True, "head": "embedding"},
    "attention_bias": {"attention_bias": True},
    "both biases": {"attention_bias": True, "mlp_bias": True},
    "as many keys as queries": {"num_key_value_heads": None},
    "one key": {"num_key_value_heads": 1, "head_dim": None},
    "wide heads": {"head_dim": 16, "rope_scaling": LINEAR},
    "epsilon": {"rms_norm_eps": 0.1},
    "Qwen 2": QWEN2 | {"use_sliding_window": False, "sliding_window": 16},
    "Qwen 2.5, YaRN": QWEN2 | {"rope_scaling": OLD_YARN},
    "Qwen 2, window": QWEN2
    | {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
    "Qwen 2, layer types": QWEN2 | {"layer_types": ["full_attention"] * 2},
    "Qwen 2, tied": QWEN2 | {"tie_word_embeddings": True},
    "Qwen 3": QWEN3 | {"head_dim": 16},
    "Qwen 3, YaRN": QWEN3 | {"head_dim": 16, "rope_parameters": YARN},
    "Qwen 3, biases": QWEN3 | {"head_dim": 8, "attention_bias": True},
}
REFUSED = {
    "rope type 'dynamic' is not": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "rope type 'longrope' is not": {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
    "rope type 'proportional' is not": {"rope_parameters": {"rope_type": "proportional"}},
    "does not read 'mrope_section'": {"rope_scaling": {"type": "default", "mrope_section": [2]}},
    "does not read 'factor'": {"rope_parameters": {"factor": 4.0}},
    "does not read 'mscale'": {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
    "does not read 'finetuned'": {"rope_scaling": OLD_YARN | {"finetuned": True}},
    "does not read 'full_attention'": {"rope_parameters": {"full_attention": LINEAR}},
    "rope_type is both 'linear' and 'yarn'": {"rope_scaling": YARN | {"type": "linear"}},
    "rope_theta is both 10000.0 and 500000.0": {"rope_parameters": {"rope_theta": 5e5}},
    "rope_parameters and rope_scaling contra": {"rope_parameters": LINEAR, "rope_scaling": YARN},
    "original_max_position_embeddings is both 16 and 32": {
        "rope_scaling": YARN,
        "original_max_position_embeddings": 16,
    },
    "the factor of RoPE, 0.5, is below 1": {"rope_scaling": LINEAR | {"factor": 0.5}},
    "low_freq_factor 4.0 is not below": {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
    "partial_rotary_factor 0.5": {"partial_rotary_factor": 0.5},
    "the norms or RoPE use 0.0": {"rope_theta": 0},
    "'factor' is missing": {"rope_scaling": {"type": "linear"}},
    "quantization_config is set": {"quantization_config": {"quant_method": "bitsandbytes"}},
    "layer_types with 'linear_attention'": QWEN2 | {"layer_types": ["linear_attention"] * 2},
    "model_type 'mistral' contradicts": {"model_type": "mistral"},
    "hidden_act 'gelu'": {"hidden_act": "gelu"},
    "4 heads of 7 channels": {"head_dim": 7},
    "share 3 keys": {"num_key_value_heads": 3},
    "mlp_bias is not supported": QWEN3 | {"mlp_bias": True},
    "lm_head.weight to the embedding, but they differ": {
        "tie_word_embeddings": True,
        "head": "another",
    },
}


class Given(Rope):
    """Frequencies that are arguments of the compiled function, so all kinds share one."""

    def __init__(self, frequencies, scale):
        self.__dict__ |= {"theta": 1.0, "given": frequencies, "scale": scale}

    def frequencies(self, head_dim):
        return self.given


@partial(jax.jit, static_argnums=0)
def answers(graph, lora, base, frequencies, scale):
    model = nnx.merge(graph, lora, base)
    model.config = replace(model.config, rope=Given(frequencies, scale))
    rows, nodes = PROMPTS.shape
    place = jnp.broadcast_to(jnp.arange(nodes), PROMPTS.shape)
    stems, last = jnp.empty((rows, 1, 0), int), jnp.full((rows, 1), nodes - 1)
    end = jnp.full(PROMPTS.shape, nodes)
    hidden = model(jnp.asarray(PROMPTS), place, place, end, stems, last)
    return jax.nn.softmax(model.logits(hidden)[:, 0, jnp.array(OPTIONS)])


def ours(directory, mesh, adapter=None):
    """Our answers; an adapter is padded to all targets and rank 4, so all share one function."""
    file = directory / "config.json"
    config = LlamaConfig.from_hf(json.loads(file.read_text()), str(file))
    rope = config.rope.frequencies(config.head_dim), config.rope.scale
    plain = replace(config, rope=Rope(1.0), window=None)
    shape = LoRAConfig(4, 4.0, 0.0, TARGETS) if adapter else None
    model = abstract_model(plain, shape, base_dtype("float32"))
    lora = model.lora
    if adapter:
        own = read_lora_config(adapter)
        wanted = abstract_model(plain, own, base_dtype("float32")).lora
        read = nnx.to_pure_dict(load_adapter(adapter, wanted, mesh))["layers"]
        filled = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), lora)
        for target, factors in read.items():
            found = {"a": factors["lora"]["a"], "b": factors["lora"]["b"] * own.scale}
            for name, part in found.items():
                whole = filled["layers"][target]["lora"][name]
                sizes = zip(whole[...].shape, part.shape, strict=True)
                whole.set_value(jnp.pad(part, [(0, to - size) for to, size in sizes]))
        lora = filled
    base = load_base(model.base, SafetensorsSource(directory), mesh)
    return np.asarray(answers(model.graph, lora, base, *rope))


def theirs(model):
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor(PROMPTS).long()).logits
    return logits[:, -1, OPTIONS].softmax(-1).numpy()


def write_config(directory, **changes):
    """A config.json without weights; None takes a key out of it."""
    config = {name: value for name, value in (BASE | changes).items() if value is not None}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return config


def write(directory, head=None, **changes):
    """A checkpoint of random weights with this config.json, word for word."""
    config = write_config(directory, **changes)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory)).float()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.normal_(std=0.3)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    if config.get("tie_word_embeddings") and not head:
        del weights["lm_head.weight"]
    if head == "another":
        weights["lm_head.weight"] += 1
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def check_same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    assert wanted.std() > 0.05  # a flat answer would agree with anything


@pytest.mark.parametrize("changes", AGREED.values(), ids=AGREED)
def test_transformers_answers_the_same(changes, mesh, tmp_path):
    wanted = theirs(write(tmp_path / "model", **changes))
    check_same(ours(tmp_path / "model", mesh), wanted)


@pytest.mark.parametrize(("message", "changes"), REFUSED.items(), ids=REFUSED)
def test_what_is_read_otherwise_is_refused(message, changes, mesh, tmp_path):
    (write if "head" in changes else write_config)(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as error:
        ours(tmp_path, mesh)
    assert "\n" not in str(error.value)


def test_every_key_of_config_json_is_in_a_table():
    configs = (
        getattr(transformers, f"{name}Config") for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
    )
    known = {field.name for config in configs for field in fields(config)}
    tried = {key for changes in [BASE, *AGREED.values(), *REFUSED.values()] for key in changes}
    assert known - tried == set()
    ropes = {key for keys in ROPE_KEYS.values() for key in keys}
    refused = {"short_factor", "long_factor", "mrope_section", "mscale", "mscale_all_dim"}
    assert RopeParameters.__annotations__.keys() == ropes - {"type"} | refused


# Adapters.

ALL = {"target_modules": list(TARGETS)}
ADAPTERS = {
    "queries and values": {},
    "rank 1": {"r": 1},
    "rank-stabilised": ALL | {"use_rslora": True, "lora_alpha": 3},
    "alpha is no whole number": {"lora_alpha": 2.5},
    "all-linear": {"target_modules": "all-linear"},
    "names in full": {"target_modules": [f"model.layers.{n}.mlp.up_proj" for n in range(2)]},
    "names in part": {"target_modules": ["self_attn.o_proj", "down_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "drawn": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "dropout": {"lora_dropout": 0.5},
    "no task": {"task_type": None},
    "another group size": {"qalora_group_size": 8, "megatron_core": "x"},
    "empty lists": {
        "modules_to_save": [],
        "exclude_modules": [],
        "layers_to_transform": [],
        "target_parameters": [],
    },
}
OTHER_ADAPTERS = {
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True, **ALL},
    "bias": {"bias": "lora_only"},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"v_proj": 2}},
    "layers_to_transform": {"layers_to_transform": [0]},
    "exclude_modules": {"exclude_modules": ["v_proj"]},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trainable_token_indices": {"trainable_token_indices": [1]},
    "layer_replication": {"layer_replication": [(0, 1), (0, 2)]},
    "init_lora_weights 'pissa'": {"init_lora_weights": "pissa"},
    "init_lora_weights 'olora'": {"init_lora_weights": "olora"},
    "'lm_head'; choose from": {"target_modules": ["q_proj", "lm_head"]},
    "alora_invocation_tokens": {"alora_invocation_tokens": [0]},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    write(directory)
    return directory


def make(base, directory, **changes):
    """An adapter that peft makes and writes, none of its factors zero."""
    usual = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(**usual | changes))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("changes", ADAPTERS.values(), ids=ADAPTERS)
def test_peft_answers_the_same(changes, plain, mesh, tmp_path):
    wanted = theirs(make(plain, tmp_path, **changes))
    check_same(ours(plain, mesh, tmp_path), wanted)


@pytest.mark.parametrize(("message", "changes"), OTHER_ADAPTERS.items(), ids=OTHER_ADAPTERS)
def test_other_adapters_are_refused_by_name(message, changes, plain, tmp_path):
    make(plain, tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        read_lora_config(tmp_path)


def test_every_key_of_peft_is_in_a_table(plain, tmp_path):
    make(plain, tmp_path)
    described = json.loads((tmp_path / CONFIG).read_text())
    known = {field.name for field in fields(peft.LoraConfig)}
    assert known >= READ | IGNORED
    for name in known - READ - IGNORED:
        (tmp_path / CONFIG).write_text(json.dumps(described | {name: ["x"]}))
        with pytest.raises(InputError, match=f"{name} is not supported"):
            read_lora_config(tmp_path)


# GGUF files.


def test_every_key_of_llama_cpp_is_in_a_table(tiny_checkpoint, tmp_path):
    source = GGUFSource(write_gguf(tmp_path / "x.gguf", tiny_checkpoint))
    groups = [vars(group) for group in vars(gguf.Keys).values() if isinstance(group, type)]
    names = [name for group in groups for name in group.values() if isinstance(name, str)]
    known = {name.removeprefix("{arch}.") for name in names if name.startswith("{arch}.")}
    assert known >= FIELDS - {"rope.scale_linear"}  # which the package knows no more
    for key in known - FIELDS:
        name, usual = f"llama.{key}", source._fields
        for value in (1, False, "x", [1]):
            source._fields = usual | {name: value}
            with pytest.raises(InputError, match=re.escape(f"{name} is not supported")):
                source._hf_config()
        source._fields = usual


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({"scaling.factor": 4.0}, 4.0),
        ({"scale_linear": 4.0}, 4.0),
        ({"scaling.type": "linear", "scaling.factor": 4.0, "scale_linear": 2.0}, 4.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.type": "linear", "scaling.factor": 1.0}, None),
        ({"scaling.factor": 0.0}, None),
        ({}, None),
    ],
    ids=str,
)
def test_linear_scaling_is_that_of_llama_cpp(fields, factor, tiny_checkpoint, tmp_path):
    source = GGUFSource(write_gguf(tmp_path / "x.gguf", tiny_checkpoint))
    source._fields |= {f"llama.rope.{name}": value for name, value in fields.items()}
    config = source._hf_config()
    assert config.get("rope_scaling", {}).get("factor") == factor
    stretched = LlamaConfig.from_hf(config).rope
    assert stretched.factors == (factor and (factor,) * 8)
    source.config = replace(source.config, rope=stretched)
    source._check_tensors()  # each of the file's own divisors comes on top
    both = np.array([1, 2, 4, 8, 8, 8, 8, 8]) * (factor or 1)
    assert source.config.rope.factors == tuple(both)
