"""What training changes: the adapter, the optimizer's moments, the random key and the step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from ace_jax.errors import check_positive
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.llama import Llama
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import parameter_shardings, replicated


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a resumed run needs besides the data's position.

    Attributes:
      step: number of steps done, an int32 scalar.
      lora: adapter parameters, float32.
      optimizer: its moments.
      key: root of every dropout mask; step i draws from `fold_in(key, i)`.

    The fields are untyped where trees of shardings and of shapes take the arrays' place.
    """

    step: Any
    lora: nnx.State
    optimizer: PyTree
    key: Any


def initial_lora(
    config: LlamaConfig, lora: LoRAConfig, mesh: Mesh, key: Key[Array, ""]
) -> nnx.State:
    """Draws a fresh adapter on the mesh. The base weights drawn beside it are never computed."""

    def draw(key: Key[Array, ""]) -> nnx.State:
        return nnx.state(Llama(config, lora, jnp.dtype("float32"), nnx.Rngs(key)), nnx.LoRAParam)

    shardings = parameter_shardings(jax.eval_shape(draw, key), mesh)
    return jax.jit(draw, out_shardings=shardings)(key)


def make_optimizer(
    learning_rate: float,
    weight_decay: float,
    b1: float,
    b2: float,
    eps: float,
    grad_clip: float | None,
    accumulation: int,
) -> optax.GradientTransformation:
    """AdamW with optional clipping of the gradient's global norm.

    With `accumulation` k the mean gradient of k steps makes one update; raises `InputError` for a
    k below one.
    """
    check_positive("optimizer.accumulation", accumulation)
    adamw = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    clip = optax.identity() if grad_clip is None else optax.clip_by_global_norm(grad_clip)
    chain = optax.chain(clip, adamw)
    if accumulation == 1:
        return chain
    return optax.MultiSteps(chain, accumulation).gradient_transformation()


def initial_state(
    lora: nnx.State, optimizer: optax.GradientTransformation, key: Key[Array, ""], mesh: Mesh
) -> TrainState:
    """Returns the state of step 0; the moments lie where their parameters lie."""
    shardings = state_shardings(lora, optimizer, mesh)
    create = jax.jit(partial(_fresh_state, optimizer), out_shardings=shardings)
    return create(lora, key)


def abstract_state(
    lora: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns shapes and shardings of a state whose adapter has the shapes of `lora`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(partial(_fresh_state, optimizer), lora, key)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(lora, optimizer, mesh),
    )


def _fresh_state(optimizer: optax.GradientTransformation, lora: nnx.State, key: Any) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), lora, optimizer.init(lora), key)


def state_shardings(
    lora: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns a `TrainState` of shardings: parameters and moments by table, the rest replicated."""
    parameters = parameter_shardings(lora, mesh)
    everywhere = replicated(mesh)
    moments = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, lora),
        parameters,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(everywhere, parameters, moments, everywhere)
