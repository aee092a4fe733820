"""One step of training, and one of scoring, as pure, compiled functions."""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from ace_jax.errors import InputError
from ace_jax.likelihood import option_log_likelihoods, option_log_probabilities, option_mass
from ace_jax.losses import anchor_loss, effect_loss, forward_kl_loss, wasserstein_loss
from ace_jax.model.sharding import replicated
from ace_jax.prompts.batches import Scoring, Targets
from ace_jax.training.state import TrainState

Normalizer = Literal["options", "vocabulary"]
Anchor = Literal["mode", "forward_kl", "wasserstein"]
Metrics = dict[str, Array]
TrainStep = Callable[
    [TrainState, nnx.State, Scoring, Targets, Float[Array, ""], Float[Array, ""]],
    tuple[TrainState, Metrics],
]


def check_normalizer(name: str) -> Normalizer:
    """Returns `objective.anchor_normalizer` if it is one.

    Raises `InputError` otherwise.
    """
    if name not in get_args(Normalizer):
        raise InputError(
            f"objective.anchor_normalizer: {name!r} is not {' or '.join(get_args(Normalizer))}"
        )
    return cast(Normalizer, name)


def check_anchor(name: str, normalizer: Normalizer) -> Anchor:
    """Returns `objective.anchor` if it is one that goes with the normaliser.

    Raises `InputError` otherwise.
    """
    if name not in get_args(Anchor):
        raise InputError(f"objective.anchor: {name!r} is not one of {', '.join(get_args(Anchor))}")
    if name == "wasserstein" and normalizer != "options":
        raise InputError(
            "objective.anchor: wasserstein is a distance of distributions over the options; set "
            "objective.anchor_normalizer to options"
        )
    return cast(Anchor, name)


def objective(
    lora: nnx.State,
    base: nnx.State,
    graph: nnx.GraphDef,
    scoring: Scoring,
    targets: Targets,
    alpha: Float[Array, ""] | float,
    beta: Float[Array, ""] | float,
    normalizer: Normalizer,
    key: Key[Array, ""] | None,
    anchor: Anchor = "mode",
) -> tuple[Float[Array, ""], Metrics]:
    """Returns alpha * anchor + beta * effect (Eq. 14) and its parts.

    Args:
      lora: trainable parameters.
      base: frozen parameters.
      graph: the model's structure.
      scoring: the cells' prompts and options.
      targets: the survey's answers and the pairs.
      alpha: weight of the anchor loss.
      beta: weight of the effect loss.
      normalizer: over what the anchor loss normalises, the question's `options` or the
        `vocabulary`.
      key: for dropout; None turns it off.
      anchor: which loss that is: Eq. 13 (`mode`), or one of the survey's whole distribution.
    """
    model = nnx.merge(graph, lora, base)
    mask = scoring.option_mask
    log_likelihoods = option_log_likelihoods(model, scoring, key)
    log_p = option_log_probabilities(log_likelihoods, mask)
    pairs, weight = targets.pairs, targets.pair_weight
    p_model = jnp.exp(log_p)
    anchored = log_p if normalizer == "options" else log_likelihoods
    match anchor:
        case "mode":
            absolute = anchor_loss(anchored, targets.mode, pairs, weight)
        case "forward_kl":
            absolute = forward_kl_loss(anchored, targets.p_data, mask, pairs, weight)
        case "wasserstein":
            absolute = wasserstein_loss(p_model, targets.p_data, mask, pairs, weight)
    effect = effect_loss(p_model, targets.p_data, mask, pairs, weight)
    loss = alpha * absolute + beta * effect
    mass = jnp.average(option_mass(log_likelihoods, mask)[pairs].mean(axis=1), weights=weight)
    return loss, {"loss": loss, "anchor_loss": absolute, "effect_loss": effect, "option_mass": mass}


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    normalizer: Normalizer,
    dropout: float,
    shardings: TrainState,
    mesh: Mesh,
    anchor: Anchor = "mode",
) -> TrainStep:
    """Compiles the step once per batch shape; the old state's memory is used for the new one."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    def step(
        state: TrainState,
        base: nnx.State,
        scoring: Scoring,
        targets: Targets,
        alpha: Float[Array, ""],
        beta: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step) if dropout > 0 else None
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            gradient, metrics = jax.grad(objective, has_aux=True)(
                state.lora, base, graph, scoring, targets, alpha, beta, normalizer, key, anchor
            )
        updates, moments = optimizer.update(gradient, state.optimizer, state.lora)
        lora = optax.apply_updates(state.lora, updates)
        metrics["grad_norm"] = optax.tree.norm(gradient)
        return TrainState(state.step + 1, lora, moments, state.key), metrics

    return step
