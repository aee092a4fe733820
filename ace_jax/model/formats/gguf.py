"""GGUF files (llama.cpp's format): LLaMA-like models are read, adapters written.

The `gguf` package reads the file. Tensors get their Hugging Face names, so the rest of the program
sees one kind of checkpoint. For its own RoPE, llama.cpp interleaves the two halves of each query
and key head of a LLaMA; reading undoes that.

The header states how many items and bytes follow, and the package makes arrays for each, however
few there are. `BoundedReader` compares those numbers with the file's size and with any model's.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    GGUFReader,
    GGUFType,
    GGUFValueType,
    GGUFWriter,
    Keys,
    get_tensor_name_map,
)
from gguf.quants import dequantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ace_jax.errors import InputError, within
from ace_jax.files import reason
from ace_jax.model.architecture import LlamaConfig, architecture_of
from ace_jax.model.formats.hf import MODULES, TOP, Index, Stored, TensorSource, hf_names
from ace_jax.model.formats.peft import Factors, factor_names
from ace_jax.model.lora import TARGETS, LoRAConfig

# llama.cpp's names of modules -> those of Hugging Face; a layer's are without its number.
NAMES = get_tensor_name_map(MODEL_ARCH.QWEN3, n_blocks=1)
MODULE_OF = {str(NAMES.get_name(name[:-7])): name[:-7] for name in TOP.values()}
MODULE_OF |= {
    str(NAMES.get_name(f"model.layers.0.{name}"))[len("blk.0.") :]: name
    for name in MODULES.values()
}
ARCHITECTURES = ("llama", "qwen2", "qwen3")  # Mistral calls itself llama
ROPE_FACTORS = "rope_freqs.weight"

# The fields of an architecture that are read. One that is not here, and not 0, is refused.
LINEAR_FACTORS = ("scaling.factor", "scale_linear")
FIELDS = {
    *("context_length", "embedding_length", "feed_forward_length", "block_count"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
    *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.type"),
    *(f"rope.{name}" for name in LINEAR_FACTORS),
    # Those of the tensors, or of a scaling that is refused.
    *("vocab_size", "tensor_data_layout", "attention.value_length", "rope.dimension_count"),
    *("rope.scaling.original_context_length", "rope.scaling.finetuned"),
}

MOST_ITEMS = 1 << 21  # in all arrays; a vocabulary of 256,000 with its merges has 1.3 million

# How `tokenizer.ggml.pre` cuts a text before byte-pair merging.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
PRE_TOKENIZERS = {
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
    "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"), BYTES],
    "qwen2": [pre_tokenizers.Split(Regex(LLAMA3_WORDS.replace("{1,3}", "")), "isolated"), BYTES],
}
CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


class BoundedReader(GGUFReader):
    """A `GGUFReader` that raises `ValueError` for a header that no model has."""

    data: Any
    _items = 0

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if isinstance(self.data, np.memmap):  # its slices are slow
            self.data = self.data.view(np.ndarray)
        if count > 1:  # a text, a shape or a tensor
            end = offset + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"{count} values end at byte {end} of {len(self.data)}")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            self._items += int(self._get(orig_offs + 4, np.uint64)[0])
            if self._items > MOST_ITEMS:
                raise ValueError(f"{self._items} items, where no model has more than {MOST_ITEMS}")
        return super()._get_field_parts(orig_offs, raw_type)


class GGUFSource(TensorSource):
    """The weights, config and tokenizer in a GGUF file; weights are read as float32, dequantised.

    `hf_config` is the model's config.json, without the divisors of RoPE's frequencies, which are
    `rope_factors`, one for each, or None.

    Raises `InputError` for a damaged file, another architecture or an unknown tokenizer.
    """

    def __init__(self, path: Path):
        try:
            reader = BoundedReader(path)
            if any(0 in tensor.shape for tensor in reader.tensors):
                raise ValueError("a tensor holds no values")
            self._fields = {name: field.contents() for name, field in reader.fields.items()}
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except Exception as error:  # damage may raise anything in the reader
            raise InputError(
                f"{path}: not a complete GGUF file ({reason(error)}); fetch it again"
            ) from None
        self.files = (path,)
        self._path = path
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        factors = tensors.pop(ROPE_FACTORS, None)
        self.rope_factors = None if factors is None else factors.data.ravel()
        self.stored = {
            _hf_name(name): Stored(tuple(map(int, it.shape[::-1])), it.tensor_type.name, it)
            for name, it in tensors.items()
        }
        with within(path):
            self.hf_config = self._hf_config()
        self.config = LlamaConfig.from_hf(self.hf_config, str(path))
        with within(path):
            self._check_tensors()

    def _read(self, name: str, index: Index) -> np.ndarray:
        tensor = self.stored[name].place
        rows = np.arange(self.shape(name)[0])
        if is_interleaved(name, self.config):
            rows = rows.reshape(-1, self.config.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
        # Mapped for each read: the pages of a mapped file count as this process's memory.
        packed = np.memmap(
            self._path, tensor.data.dtype, "r", tensor.data_offset, tensor.data.shape
        ).view(np.ndarray)
        return dequantize(packed[rows[index[0]]], tensor.tensor_type)[:, *index[1:]]

    def _hf_config(self) -> dict[str, Any]:
        kind = self._field("general.architecture")
        if kind not in ARCHITECTURES:
            raise InputError(f"architecture {kind!r:.40} is not supported")
        for name, value in self._fields.items():
            key = name.removeprefix(f"{kind}.")
            if key not in {name, *FIELDS} and (value is False or value != 0):
                raise InputError(f"{name} is not supported")
        # llama.cpp scales linearly where the type is missing.
        scaling = self._fields.get(f"{kind}.rope.scaling.type", "linear")
        factors = (self._fields.get(f"{kind}.rope.{key}") for key in LINEAR_FACTORS)
        factor = next((each for each in factors if each is not None), None) or 1.0
        if scaling not in ("none", "linear"):
            raise InputError(f"{kind}.rope.scaling.type {scaling!r:.40} is not supported")
        if "model.embed_tokens.weight" not in self.stored:
            raise InputError("no token_embd.weight")
        config = {
            "architectures": [architecture_of(kind)],
            "model_type": kind,
            "vocab_size": self.shape("model.embed_tokens.weight")[0],
            "hidden_size": self._field(f"{kind}.embedding_length"),
            "intermediate_size": self._field(f"{kind}.feed_forward_length"),
            "num_hidden_layers": self._field(f"{kind}.block_count"),
            "num_attention_heads": self._field(f"{kind}.attention.head_count"),
            "num_key_value_heads": self._fields.get(f"{kind}.attention.head_count_kv"),
            "head_dim": self._fields.get(f"{kind}.attention.key_length"),
            "max_position_embeddings": self._fields.get(f"{kind}.context_length"),
            "rms_norm_eps": self._field(f"{kind}.attention.layer_norm_rms_epsilon"),
            # llama.cpp leaves the key out where the value is its default.
            "rope_theta": self._fields.get(f"{kind}.rope.freq_base", 10000.0),
            "tie_word_embeddings": "lm_head.weight" not in self.stored,
        }
        if scaling == "linear" and factor != 1:
            config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        return {name: value for name, value in config.items() if value is not None}

    def _check_tensors(self) -> None:
        factors, channels = self.rope_factors, self.config.head_dim
        rotated = f"{self.config.llama_cpp}.rope.dimension_count"
        if self._fields.get(rotated, channels) != channels:
            raise InputError(f"{rotated} is not {channels}, the channels of a head")
        if factors is not None:
            positive = np.isfinite(factors).all() and (factors > 0).all()
            if len(factors) != channels // 2 or not positive:
                raise InputError(f"{ROPE_FACTORS} does not fit {channels} channels")
            both = factors * np.asarray(self.config.rope.factors or 1, np.float32)
            rope = replace(self.config.rope, factors=tuple(both.tolist()))
            self.config = replace(self.config, rope=rope)
        for kind in {tensor.place.tensor_type for tensor in self.stored.values()}:
            try:
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            except NotImplementedError:
                raise InputError(
                    f"tensors of type {kind.name} are not supported; take another quantisation"
                ) from None
        for name in self.stored:
            rows = self.shape(name)[0]
            if is_interleaved(name, self.config) and rows % channels:
                raise InputError(f"{name} has {rows} rows, not {channels} for each head")

    def _field(self, name: str) -> Any:
        if name not in self._fields:
            raise InputError(f"the field {name} is missing")
        return self._fields[name]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Returns the tokenizer in the file; raises `InputError` where its fields define none."""
        try:
            tokenizer = self._tokenizer()
            tokenizer("1")
            return tokenizer
        except Exception as error:  # wrong fields may raise anything in the library
            raise InputError(f"{self._path}: no tokenizer can be read ({reason(error)})") from None

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        kind = self._field("tokenizer.ggml.model")
        tokens: list[str] = self._field("tokenizer.ggml.tokens")
        if kind not in ("gpt2", "llama"):
            raise InputError(f"tokenizer.ggml.model {kind!r:.40} is not supported")
        vocabulary = {token: number for number, token in enumerate(tokens)}
        if kind == "gpt2":
            tokenizer = self._byte_level(vocabulary)
        else:
            tokenizer = self._sentencepiece(tokens, vocabulary)
        types = self._field("tokenizer.ggml.token_type")
        for special, kind_number in ((True, CONTROL), (False, USER_DEFINED)):
            added = [t for t, n in zip(tokens, types, strict=True) if n == kind_number]
            tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in added])

        def name_of(role: str) -> str | None:
            number = self._fields.get(f"tokenizer.ggml.{role}_token_id")
            return None if number is None else tokens[number]

        bos = name_of("bos")
        starts_with_bos = kind == "llama" or self._fields.get("tokenizer.ggml.pre") == "llama-bpe"
        if bos and self._fields.get("tokenizer.ggml.add_bos_token", starts_with_bos):
            tokenizer.post_processor = TemplateProcessing(
                single=f"{bos} $A",
                special_tokens=[(bos, self._fields["tokenizer.ggml.bos_token_id"])],
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=bos,
            eos_token=name_of("eos"),
            unk_token=name_of("unknown"),
            pad_token=name_of("padding"),
            chat_template=self._fields.get("tokenizer.chat_template"),
            clean_up_tokenization_spaces=False,
        )

    def _byte_level(self, vocabulary: dict[str, int]) -> Tokenizer:
        pre = self._fields.get("tokenizer.ggml.pre")
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            raise InputError(f"tokenizer.ggml.pre {pre!r:.40} is not one of {known}")
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[pre])
        if pre == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _sentencepiece(self, tokens: list[str], vocabulary: dict[str, int]) -> Tokenizer:
        # SentencePiece merges the pair whose joint token scores best. The same as a list of merges
        # is every split of every token, in the order of scores.
        scores = self._field("tokenizer.ggml.scores")
        splits = [
            (-scores[number], number, (token[:cut], token[cut:]))
            for token, number in vocabulary.items()
            for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        ]
        merges = [pair for _, _, pair in sorted(splits)]
        unknown = tokens[self._fields.get("tokenizer.ggml.unknown_token_id", 0)]
        tokenizer = Tokenizer(
            models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        )
        prefixed = self._fields.get("tokenizer.ggml.add_space_prefix", True)
        prefix = [normalizers.Prepend("▁")] if prefixed else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        return tokenizer


def write_gguf_adapter(
    file: Path,
    factors: Factors,
    lora: LoRAConfig,
    model: LlamaConfig,
) -> None:
    """Writes an adapter's A and B (as `peft.read_factors` has them) for `llama.cpp --lora FILE`.

    llama.cpp adds alpha / rank * B A to the tensor that the names of A and B begin with. B's rows
    stand in the order of that tensor's rows. Raises `InputError` for a scale of 0, which llama.cpp
    takes for 1.
    """
    if not lora.scale:
        raise InputError("lora_alpha is 0, which llama.cpp takes for a scale of 1")
    name_of = {module: name for name, module in MODULE_OF.items()}
    writer = GGUFWriter(file, model.llama_cpp)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    # llama.cpp knows no rank-stabilised scale: it divides alpha by the rank.
    writer.add_float32(Keys.Adapter.LORA_ALPHA, lora.scale * lora.rank)
    for target in (each for each in TARGETS if each in lora.targets):
        for layer, name in enumerate(hf_names(("layers", target, "kernel"), model.num_layers)):
            a, b = (factors[factor] for factor in factor_names(name))
            if is_interleaved(name, model):
                halves = b.reshape(-1, 2, model.head_dim // 2, lora.rank)
                b = halves.swapaxes(1, 2).reshape(b.shape)
            tensor = f"blk.{layer}.{name_of[MODULES[target]]}.weight"
            writer.add_tensor(f"{tensor}.lora_a", a)
            writer.add_tensor(f"{tensor}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def is_interleaved(name: str, config: LlamaConfig) -> bool:
    """Returns whether llama.cpp has a tensor's rows in an order of its own, for its RoPE."""
    return config.llama_cpp == "llama" and name.endswith(("q_proj.weight", "k_proj.weight"))


def _hf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    prefix, _, rest = module.partition(".")
    if prefix == "blk":
        layer, _, rest = rest.partition(".")
        return f"model.layers.{layer}.{MODULE_OF.get(rest, rest)}.{kind}"
    return f"{MODULE_OF.get(module, module)}.{kind}"
