"""Every supported family as transformers saves it; `test_agreement.py` compares the answers."""

import re

import pytest
import torch
from conftest import STRETCHED_ROPE
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.hub import open_checkpoint

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,  # far from uniform answers
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama2": {"model_type": "llama", "num_key_value_heads": 4},
    "llama2-linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    },
    "llama3": {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5}},
    "llama3.1": {"model_type": "llama", "rope_parameters": STRETCHED_ROPE},
    "llama3.2": {
        "model_type": "llama",
        "rope_parameters": STRETCHED_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "llama-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "num_attention_heads": 8},
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 32},
    "mistral-windowed": {"model_type": "mistral", "sliding_window": 256},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2.5-yarn": {"model_type": "qwen2", "rope_parameters": YARN},
    "qwen2-windowed": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 256,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "qwen3-biased": {"model_type": "qwen3", "head_dim": 16, "attention_bias": True},
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tokenizer, tmp_path_factory):
    """A random small checkpoint, every weight of it drawn, and the model it was saved from."""
    torch.manual_seed(0)
    fields = SIZES | FAMILIES[request.param] | {"vocab_size": len(tokenizer)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.5)
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory, model


def test_a_window_is_kept_to_refuse_longer_prompts(family):
    config = open_checkpoint(str(family[0])).config
    assert config.window == (256 if family[0].name.startswith(("mistral-w", "qwen2-w")) else None)


def test_what_config_json_leaves_out_is_what_transformers_takes_for_it():
    left_out = {"architectures": ["MistralForCausalLM"], "vocab_size": 8, "rms_norm_eps": 1e-6}
    assert LlamaConfig.from_hf(SIZES | left_out).window == MistralConfig().sliding_window == 4096


def test_the_families_that_are_supported_are_named():
    message = "architecture 'GPT2LMHeadModel' is not supported; LlamaForCausalLM, Mistral"
    with pytest.raises(InputError, match=re.escape(message)):
        LlamaConfig.from_hf({"architectures": ["GPT2LMHeadModel"]})
