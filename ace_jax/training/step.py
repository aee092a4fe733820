"""One step of training as a pure, compiled function."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from ace_jax.likelihood import option_log_likelihoods, option_log_probabilities, option_mass
from ace_jax.losses import Anchor, effect_loss
from ace_jax.model.sharding import replicated
from ace_jax.prompts.batches import Scoring, Targets
from ace_jax.training.state import TrainState

Metrics = dict[str, Array]
Weights = tuple[Float[Array, ""] | float, Float[Array, ""] | float]
TrainStep = Callable[[TrainState, nnx.State, Scoring, Targets, Weights], tuple[TrainState, Metrics]]


def objective(
    lora: nnx.State,
    base: nnx.State,
    graph: nnx.GraphDef,
    scoring: Scoring,
    targets: Targets,
    weights: Weights,
    anchor: Anchor,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns alpha * anchor + beta * effect (Eq. 14) and its parts.

    Args:
      lora: trainable parameters.
      base: frozen parameters.
      graph: the model's structure.
      scoring: the cells' prompts and options.
      targets: the survey's answers and the pairs.
      weights: alpha, of the anchor loss, and beta, of the effect loss.
      anchor: which anchor loss.
      key: for dropout; None turns it off.
    """
    mask, pairs, pair_weight = scoring.option_mask, targets.pairs, targets.pair_weight
    log_likelihoods = option_log_likelihoods(nnx.merge(graph, lora, base), scoring, key)
    log_p = option_log_probabilities(log_likelihoods, mask)
    alpha, beta = weights
    absolute = anchor.loss(log_likelihoods, log_p, targets, mask)
    effect = effect_loss(jnp.exp(log_p), targets.p_data, mask, pairs, pair_weight)
    mass = option_mass(log_likelihoods, mask)[pairs].mean(axis=1)
    loss = alpha * absolute + beta * effect
    return loss, {
        "loss": loss,
        "anchor_loss": absolute,
        "effect_loss": effect,
        "option_mass": jnp.average(mass, weights=pair_weight),
    }


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    anchor: Anchor,
    dropout: float,
    shardings: TrainState,
    mesh: Mesh,
) -> TrainStep:
    """Compiles the step once per batch shape; the old state's memory is used for the new one."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    def step(
        state: TrainState, base: nnx.State, scoring: Scoring, targets: Targets, weights: Weights
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step) if dropout > 0 else None
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            gradient, metrics = jax.grad(objective, has_aux=True)(
                state.lora, base, graph, scoring, targets, weights, anchor, key
            )
        updates, moments = optimizer.update(gradient, state.optimizer, state.lora)
        lora = optax.apply_updates(state.lora, updates)
        metrics["grad_norm"] = optax.tree.norm(gradient)
        return TrainState(state.step + 1, lora, moments, state.key), metrics

    return step
