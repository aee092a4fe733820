"""LoRA adapters as GGUF files, as llama.cpp takes them beside a model (`--lora FILE`).

llama.cpp adds alpha / rank * B A to the tensor that the names of A and B begin with. B's rows stand
in the order of that tensor's rows, which for queries and keys of a LLaMA is not Hugging Face's.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFType, GGUFWriter, Keys
from jaxtyping import Float

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.gguf import MODULE_OF, is_interleaved
from ace_jax.model.formats.hf import MODULES, hf_names
from ace_jax.model.formats.peft import factor_names
from ace_jax.model.lora import TARGETS, LoRAConfig

NAME_OF = {module: name for name, module in MODULE_OF.items()}


def write_gguf_adapter(
    file: Path,
    factors: Mapping[str, Float[np.ndarray, "out in"]],
    lora: LoRAConfig,
    model: LlamaConfig,
) -> None:
    """Writes an adapter's A and B (under their PEFT names, as `read_factors` has them) in float32.

    Raises `InputError` for a scale of 0, which llama.cpp takes for 1.
    """
    if not lora.scale:
        raise InputError("lora_alpha is 0, which llama.cpp takes for a scale of 1")
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
            tensor = f"blk.{layer}.{NAME_OF[MODULES[target]]}.weight"
            writer.add_tensor(f"{tensor}.lora_a", a)
            writer.add_tensor(f"{tensor}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
