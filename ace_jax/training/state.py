"""What training changes: the adapter, the optimizer's moments, the random key and the step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.llama import Llama
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import parameter_shardings, replicated
from ace_jax.recipe import Optimizer


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


def make_optimizer(settings: Optimizer) -> optax.GradientTransformation:
    """AdamW with optional clipping of the gradient's global norm.

    With `accumulation` k, the mean gradient of k steps makes one update.
    """
    chain = _update_rule(settings)
    if settings.accumulation == 1:
        return chain
    return optax.MultiSteps(chain, settings.accumulation).gradient_transformation()


def make_stage_end(
    settings: Optimizer, shardings: TrainState
) -> Callable[[TrainState, bool], TrainState]:
    """Returns what happens to a state after a stage's last step.

    Gradients that wait for an update (`accumulation`) make a smaller one now: none may reach into
    the next stage, whose losses are others. With `reset_between_stages`, the next stage starts with
    fresh moments. The second argument of what is returned says whether there is a next stage.
    """
    rule, optimizer = _update_rule(settings), make_optimizer(settings)

    def flushed(state: TrainState) -> TrainState:
        waiting = state.optimizer
        updates, inner = rule.update(waiting.acc_grads, waiting.inner_opt_state, state.lora)
        empty = waiting._replace(
            mini_step=jnp.zeros_like(waiting.mini_step),
            gradient_step=waiting.gradient_step + 1,
            inner_opt_state=inner,
            acc_grads=jax.tree.map(jnp.zeros_like, waiting.acc_grads),
        )
        return replace(state, lora=optax.apply_updates(state.lora, updates), optimizer=empty)

    @partial(jax.jit, donate_argnums=0, static_argnums=1, out_shardings=shardings)
    def end(state: TrainState, goes_on: bool) -> TrainState:
        if settings.accumulation > 1:
            state = jax.lax.cond(state.optimizer.mini_step > 0, flushed, lambda state: state, state)
        if settings.reset_between_stages and goes_on:
            state = replace(state, optimizer=optimizer.init(state.lora))
        return state

    needed = settings.accumulation > 1 or settings.reset_between_stages
    return end if needed else lambda state, goes_on: state


def _update_rule(settings: Optimizer) -> optax.GradientTransformation:
    adamw = optax.adamw(
        settings.learning_rate,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    clip = settings.grad_clip
    return optax.chain(optax.identity() if clip is None else optax.clip_by_global_norm(clip), adamw)


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
