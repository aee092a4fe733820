"""A model without its arrays: structure, shapes and dtypes, which take no memory."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from flax import nnx

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.llama import REMAT, Llama
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.quantization import quantized


@dataclass(frozen=True)
class AbstractModel:
    """The model without its arrays.

    Attributes:
      graph: the structure.
      lora: shapes of the trainable parameters.
      base: shapes of the frozen parameters.
    """

    graph: nnx.GraphDef
    lora: nnx.State
    base: nnx.State


def abstract_model(
    config: LlamaConfig,
    lora: LoRAConfig | None,
    dtype: jnp.dtype,
    remat: str = "matmuls",
    quantization: str = "none",
) -> AbstractModel:
    """Returns the model's structure and shapes.

    Args:
      config: architecture.
      lora: the adapter's shape; None for the base alone.
      dtype: of the frozen parameters.
      remat: what the backward pass keeps, `model.remat`.
      quantization: kind of the frozen kernels, `model.quantization`.

    Raises:
      InputError: `remat` or `quantization` is unknown.
    """
    if remat not in REMAT:
        raise InputError(f"model.remat: {remat!r} is not one of {', '.join(REMAT)}")
    model = nnx.eval_shape(lambda: Llama(config, lora, dtype, nnx.Rngs(0), remat))
    whole = AbstractModel(*nnx.split(model, nnx.LoRAParam, ...))
    return replace(whole, base=quantized(whole.base, quantization))
