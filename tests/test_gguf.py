import dataclasses
import json

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import load_file
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Tokenizer

from ace_jax import convert
from ace_jax.errors import InputError
from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hf import fingerprint
from ace_jax.model.formats.hub import open_checkpoint

HEADS = {"q_proj": 4, "k_proj": 2}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
TEXTS = [
    "Imagine you are a person living in Canada with this profile:\n- Female\n- Not Married\n",
    "Answer:\n10",
    "It's 2024, they've 12345 things;  two  blanks\n\n and\ttabs... Ünïcödé 日本語 😀",
    "",
]


def write_gguf(path, checkpoint, kind=Kind.F32, pre="smollm", change=lambda fields: None):
    """Writes a Hugging Face directory as llama.cpp's converter does.

    `change` may alter the fields of the header before they are written; None leaves one out.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    described = json.loads((checkpoint / "tokenizer.json").read_text())
    special = {token["content"] for token in described["added_tokens"]}
    vocabulary = described["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    fields = {
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "head_count": config["num_attention_heads"],
        "head_count_kv": config["num_key_value_heads"],
        "layer_norm_rms_eps": config["rms_norm_eps"],
        "rope_freq_base": config["rope_parameters"]["rope_theta"],
        "tokenizer_model": "gpt2",
        "tokenizer_pre": pre,
        "token_list": tokens,
        "token_types": [3 if token in special else 1 for token in tokens],
        "token_merges": [" ".join(pair) for pair in described["model"]["merges"]],
        "bos_token_id": tokens.index("<|begin_of_text|>"),
        "add_bos_token": True,
        "chat_template": "{{ messages[0].content }}",
        "architecture": "llama",
        "rope_freqs": np.array([1, 2, 4, 8, 8, 8, 8, 8], np.float32),
    }
    change(fields)
    architecture = fields.pop("architecture")
    writer = GGUFWriter(path, architecture)
    rope_freqs = fields.pop("rope_freqs")
    for name, value in fields.items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs)
    for name, weight in weights_of(checkpoint).items():
        if (
            architecture == "llama" and name.split(".")[-2] in HEADS
        ):  # to the order of llama.cpp's own RoPE
            heads, (rows, columns) = HEADS[name.split(".")[-2]], weight.shape
            halves = weight.reshape(heads, 2, rows // heads // 2, columns)
            weight = halves.swapaxes(1, 2).reshape(rows, columns)
        used = kind if weight.ndim == 2 else Kind.F32
        writer.add_tensor(_gguf_name(name), quantize(weight, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name):
    module, kind = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, rest = module.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def weights_of(checkpoint):
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)


ALL = (slice(None),)


@pytest.fixture(scope="module")
def written(tiny_checkpoint, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_checkpoint)


def test_weights_are_those_of_the_directory(written, tiny_checkpoint):
    source, expected = GGUFSource(written), weights_of(tiny_checkpoint)
    assert set(source.stored) == expected.keys()
    for name, weight in expected.items():
        assert source.shape(name) == weight.shape
        np.testing.assert_array_equal(source.read(name, ALL * weight.ndim), weight)


def test_a_slice_is_read_as_asked(written, tiny_checkpoint):
    index = (slice(8, 24), slice(3, 5))
    for name in ("model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.up_proj.weight"):
        part = GGUFSource(written).read(name, index)
        np.testing.assert_array_equal(part, weights_of(tiny_checkpoint)[name][index])


def test_q8_0_is_dequantised(tiny_checkpoint, tmp_path):
    source = GGUFSource(write_gguf(tmp_path / "q8.gguf", tiny_checkpoint, Kind.Q8_0))
    for name, weight in weights_of(tiny_checkpoint).items():
        read = source.read(name, ALL * weight.ndim)
        # Blocks of 32 values share a scale of 127 steps to the largest of them.
        np.testing.assert_allclose(read, weight, atol=np.abs(weight).max() / 127)
        assert (weight.ndim == 1) == np.array_equal(read, weight)


def test_the_config_is_that_of_the_directory(written, tiny_checkpoint, tmp_path):
    expected = open_checkpoint(str(tiny_checkpoint)).config
    found = open_checkpoint(str(written)).config
    assert found.rope.factors == (1, 2, 4, 8, 8, 8, 8, 8)
    assert found.rms_norm_eps == pytest.approx(expected.rms_norm_eps)  # float32 in the file
    same = {name for name in vars(expected) if getattr(expected, name) == getattr(found, name)}
    assert vars(expected).keys() - same <= {"rope", "rms_norm_eps"}


def test_what_the_header_leaves_out_has_llama_cpps_default(tiny_checkpoint, tmp_path):
    def change(fields):
        fields |= {"rope_freqs": None, "rope_freq_base": None, "head_count_kv": None}

    config = GGUFSource(write_gguf(tmp_path / "x.gguf", tiny_checkpoint, change=change)).config
    assert (config.rope.factors, config.rope.theta, config.num_kv_heads) == (None, 10000.0, 4)


@pytest.fixture(params=["qwen2", "qwen3"])
def qwen(request, tokenizer, tmp_path):
    """A random Qwen as a directory, and the same as llama.cpp's converter would write it."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer) + 8,  # room for the end token that transformers adds
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **shape)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    model.save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")

    def change(fields):
        fields |= {"architecture": request.param, "rope_freqs": None}
        fields |= {"key_length": 128} if request.param == "qwen3" else {}
        fields["token_list"] += [f"[PAD{number}]" for number in range(8)]
        fields["token_types"] += [5] * 8

    file = write_gguf(tmp_path / "qwen.gguf", tmp_path / "hf", pre="qwen2", change=change)
    return tmp_path / "hf", file


def test_a_qwen_is_what_its_directory_and_transformers_make_of_it(qwen):
    directory, file = qwen
    found, expected = open_checkpoint(str(file)), open_checkpoint(str(directory))
    assert dataclasses.replace(found.config, rms_norm_eps=1e-6) == expected.config
    assert found.config.rms_norm_eps == pytest.approx(1e-6)
    assert fingerprint(found.source) == fingerprint(expected.source)
    reference = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    weights = reference.state_dict()
    assert set(found.source.stored) == weights.keys()
    assert {"bias", "q_norm"} & {part for name in weights for part in name.split(".")}
    for name, weight in weights.items():
        np.testing.assert_array_equal(found.source.read(name, ALL * weight.ndim), weight, name)


def test_a_qwen_becomes_a_directory(qwen, tmp_path):
    directory, file = qwen
    convert.main(["merge", "--model", str(file), "--output", str(tmp_path / "whole")])
    found, expected = (open_checkpoint(str(path)) for path in (tmp_path / "whole", directory))
    assert dataclasses.replace(found.config, rms_norm_eps=1e-6) == expected.config
    assert fingerprint(found.source) == fingerprint(expected.source)
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")


def test_the_qwen_2_tokenizer_gives_the_same_ids(tiny_checkpoint, tmp_path, tokenizer):
    described = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in described["merges"]]
    vocabulary = described["vocab"] | {"12": len(described["vocab"])}  # never reached in 123
    expected = Qwen2Tokenizer(vocabulary, [("1", "2"), *merges], unk_token=None)

    def change(fields):
        fields |= {"add_bos_token": False, "token_types": [*fields["token_types"], 1]}
        fields["token_list"] = [*fields["token_list"], "12"]
        fields["token_merges"] = ["1 2", *fields["token_merges"]]

    path = write_gguf(tmp_path / "x.gguf", tiny_checkpoint, pre="qwen2", change=change)
    found = GGUFSource(path).tokenizer()
    for text in [*TEXTS, "e\u0301"]:  # composed before it is cut
        assert found(text)["input_ids"] == expected(text)["input_ids"]


def test_a_tied_model_has_no_head(tiny_tied_checkpoint, tmp_path):
    path = write_gguf(tmp_path / "tied.gguf", tiny_tied_checkpoint)
    assert open_checkpoint(str(path)).config.tie_word_embeddings


def test_the_smollm_tokenizer_gives_the_same_ids(written, tokenizer):
    found = GGUFSource(written).tokenizer()
    for text in TEXTS:
        assert found(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert found.decode(found(text)["input_ids"]) == tokenizer.decode(
            tokenizer(text)["input_ids"]
        )
    assert found.bos_token == "<|begin_of_text|>"
    assert found.chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize("add_bos_token", [True, False, None])
def test_the_llama_3_tokenizer_gives_the_same_ids(
    tiny_checkpoint, tmp_path, tokenizer, add_bos_token
):
    # Llama 3's own expression, as its tokenizer.json has it; a number is cut at three digits.
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["model"]["ignore_merges"] = True
    expected = Tokenizer.from_str(json.dumps(described))
    expected.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    def change(fields):
        fields["add_bos_token"] = add_bos_token

    path = write_gguf(tmp_path / "x.gguf", tiny_checkpoint, pre="llama-bpe", change=change)
    found = GGUFSource(path).tokenizer()
    for text in TEXTS:
        ids = expected.encode(text).ids  # it starts with the start token, as Llama 3's does
        assert found(text)["input_ids"] == (ids[1:] if add_bos_token is False else ids)


def test_a_sentencepiece_tokenizer_merges_by_score(tiny_checkpoint, tmp_path):
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁a", "▁ab", "bc", "a", "b", "c", "▁"]
    scores = [0.0] * 258 + [-2.0, -3.0, -1.0, -10.0, -10.0, -10.0, -10.0]

    def change(fields):
        types = [2, 3, *[6] * 256, *[1] * 7]
        fields |= {"tokenizer_model": "llama", "tokenizer_pre": "default", "token_list": pieces}
        fields |= {"token_types": types, "token_scores": scores, "token_merges": None}
        fields |= {"bos_token_id": 1, "unk_token_id": 0}

    found = GGUFSource(write_gguf(tmp_path / "x.gguf", tiny_checkpoint, change=change)).tokenizer()

    def cut(text):
        return found.convert_ids_to_tokens(found(text)["input_ids"])

    assert cut("ab") == ["<s>", "▁ab"]
    assert cut("abc") == ["<s>", "▁a", "bc"]  # bc scores better than ▁ab
    assert cut("aé") == ["<s>", "▁a", "<0xC3>", "<0xA9>"]
    assert found.decode(found("abc é")["input_ids"], skip_special_tokens=True).strip() == "abc é"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gemma3"}, "architecture 'gemma3' is not supported"),
        ({"tokenizer_model": "bert"}, "tokenizer.ggml.model 'bert' is not supported"),
        ({"tokenizer_pre": "gpt-2"}, "tokenizer.ggml.pre 'gpt-2' is not one of smollm, llama-bpe"),
        ({"tokenizer_pre": None}, "tokenizer.ggml.pre None is not one of"),
        ({"token_merges": None}, "the field tokenizer.ggml.merges is missing"),
        ({"block_count": None}, "the field llama.block_count is missing"),
        ({"rope_dimension_count": 8}, "llama.rope.dimension_count is not 16, the channels"),
        (
            {"rope_scaling_type": gguf.RopeScalingType.YARN},
            "rope.scaling.type 'yarn' is not supported",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_not_supported_is_refused(tiny_checkpoint, tmp_path, changes, message):
    def change(fields):
        fields |= changes

    path = write_gguf(tmp_path / "x.gguf", tiny_checkpoint, change=change)
    with pytest.raises(InputError, match=rf"x\.gguf: .*{message}"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(written, tmp_path, share):
    content = written.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cut\.gguf: not a complete GGUF file .* fetch it again"):
        open_checkpoint(str(tmp_path / "cut.gguf"))


@pytest.mark.parametrize(
    "header", [b"GARBAGE!", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"GGUF" + bytes(20)]
)
def test_a_garbage_header_is_refused(written, tmp_path, header):
    (tmp_path / "bad.gguf").write_bytes(header + written.read_bytes()[len(header) :])
    with pytest.raises(InputError, match=r"bad\.gguf: not a complete GGUF file"):
        open_checkpoint(str(tmp_path / "bad.gguf"))
