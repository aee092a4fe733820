"""The decoder against transformers, and the trie against plain sequences."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import AutoModelForCausalLM
from transformers import LlamaConfig as TorchLlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.llama import Llama
from ace_jax.prompts.options import listed
from ace_jax.prompts.template import PromptTemplate
from ace_jax.prompts.trie import Sequences, Tokens, Trie


def prompt(tokenizer, country="Canada") -> tuple[int, ...]:
    persona = {"gender": "Female", "residence": "Rural"}
    options = listed(
        ("Most people can be trusted", "Need to be very careful"), (1, 2), "number", False
    )
    question = "Generally speaking, would you say that most people can be trusted?"
    text = PromptTemplate.load("persona_first").render(country, persona, question, options)
    tokens = tuple(tokenizer(text)["input_ids"])
    assert len(tokens) >= 40
    return tokens


def trie_of(*sequences: Tokens) -> Trie:
    return Sequences.of(sequences).trie(slice(None))


def logits(model: Llama, trie: Trie, padding: int = 0) -> np.ndarray:
    """Of every node of one row of one block, padded as `batches` pads."""
    nodes = len(trie.tokens)
    tokens, depth = (np.pad(part, (0, padding)) for part in (trie.tokens, trie.depth))
    tin = np.arange(nodes + padding, dtype=np.int32)
    tout = np.concatenate([trie.tout, tin[nodes:] + 1])
    stems = np.empty((1, 0), np.int32)
    row = (jnp.asarray(part)[None] for part in (tokens, depth, tin, tout, stems, tin))
    return np.asarray(nnx.jit(lambda model, *row: model.logits(model(*row)))(model, *row))[
        0, :nodes
    ]


def torch_logits(model, tokens) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].numpy()


@pytest.fixture(scope="module")
def tiny(load, tiny_checkpoint) -> Llama:
    return nnx.merge(*load(tiny_checkpoint))


@pytest.mark.parametrize("name", ["tiny_checkpoint", "tiny_tied_checkpoint"])
def test_logits_equal_those_of_transformers(name, load, tokenizer, request):
    directory = request.getfixturevalue(name)
    tokens = prompt(tokenizer)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    wanted = torch_logits(reference, tokens)
    found = logits(nnx.merge(*load(directory)), trie_of(tokens))
    assert wanted.std() > 1  # a flat output would agree with anything
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_logits_of_a_real_model_equal_those_of_transformers(load, smollm2):
    file = smollm2.source.files[0]
    gguf = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
    reference = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **gguf)
    tokens = prompt(smollm2.tokenizer)
    wanted = torch_logits(reference.eval(), tokens)
    found = logits(nnx.merge(*load(smollm2)), trie_of(tokens))
    # The node that one-token options are scored at.
    np.testing.assert_allclose(found[-1], wanted[-1], rtol=0, atol=1e-4)
    # At logits of up to 37 the float32 reference itself is 8e-5 from float64.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_every_path_of_a_trie_has_the_logits_it_has_alone(tiny, tokenizer):
    canada = prompt(tokenizer)
    sequences = sorted({canada, canada[:30], (*canada[:30], 5, 6), prompt(tokenizer, "Mexico")})
    trie = trie_of(*sequences)
    assert len(trie.tokens) < sum(map(len, sequences))
    together = logits(tiny, trie)
    for sequence, end in zip(sequences, trie.ends, strict=True):
        path = [node for node in range(end + 1) if trie.tout[node] > end]
        assert trie.tokens[path].tolist() == list(sequence)
        alone = logits(tiny, trie_of(sequence))
        np.testing.assert_allclose(together[path], alone, rtol=0, atol=2e-5)


def test_padding_changes_no_real_node(tiny, tokenizer):
    trie = trie_of(prompt(tokenizer))
    padded, bare = logits(tiny, trie, padding=19), logits(tiny, trie)
    np.testing.assert_allclose(padded, bare, rtol=0, atol=2e-5)


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 8,
    "hidden_size": 4096,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("factor", [8.0, 32.0])  # Llama 3.1, Llama 3.2
@pytest.mark.parametrize("spelling", ["transformers 4", "transformers 5"])
def test_stretched_rope_frequencies_equal_those_of_transformers(factor, spelling):
    scaling = LLAMA31 | {"factor": factor}
    whole = {"rope_parameters": scaling | {"rope_theta": 500000.0}}
    reference = TorchLlamaConfig(**CONFIG, **whole, max_position_embeddings=131072)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](reference, "cpu")
    beside = {"rope_scaling": scaling, "rope_theta": 500000.0}
    config = LlamaConfig.from_hf(CONFIG | (beside if spelling == "transformers 4" else whole))
    np.testing.assert_allclose(config.rope.frequencies(128), wanted.numpy(), rtol=1e-5)
    unstretched = LlamaConfig.from_hf(CONFIG | {"rope_theta": 500000.0})
    ratio = unstretched.rope.frequencies(128) / config.rope.frequencies(128)
    assert ratio[0] == 1 and ratio[-1] == factor and len(set(ratio.tolist())) > 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture 'GemmaForCausalLM'"),
        ({"architectures": ["LlamaForTokenClassification"]}, ".*'LlamaForTokenClassification'"),
        ({"architectures": None, "model_type": "mixtral"}, "architecture 'MixtralForCausalLM'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope type 'longrope'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"architectures": ["MistralForCausalLM"], "attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
)
def test_other_architectures_are_refused_by_name(change, named):
    with pytest.raises(InputError, match=f"config.json: {named} is not supported"):
        LlamaConfig.from_hf(CONFIG | {"rope_theta": 1e4} | change)


@pytest.mark.parametrize("field", ["rms_norm_eps", "num_hidden_layers"])
def test_a_constant_that_config_json_lacks_is_named(field):
    config = CONFIG | {"rope_theta": 1e4}
    del config[field]
    with pytest.raises(InputError, match=f"config.json: '{field}' is missing"):
        LlamaConfig.from_hf(config)


def test_a_config_older_than_rope_theta_means_what_transformers_takes_it_to_be():
    config = TorchLlamaConfig(**CONFIG)
    assert LlamaConfig.from_hf(CONFIG).rope.theta == config.rope_parameters["rope_theta"]
