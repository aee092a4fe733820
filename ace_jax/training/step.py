"""What training changes, one step of it as a pure, compiled function, and the stages it runs in."""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree
from optax import GradientTransformation

from ace_jax.errors import InputError, check_positive
from ace_jax.likelihood import option_log_likelihoods, option_log_probabilities, option_mass
from ace_jax.losses import Anchor, effect_loss
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.llama import Llama
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import parameter_path, parameter_shardings, replicated
from ace_jax.prompts.batches import Scoring, Targets
from ace_jax.recipe import Optimizer, Stage


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a resumed run needs besides the data's position.

    Trees of shardings and of shapes take the arrays' place, so fields are untyped.
    """

    step: Any  # number of steps done, an int32 scalar
    lora: nnx.State  # adapter parameters, float32
    optimizer: PyTree  # its moments
    key: Any  # root of every dropout mask; step i draws from fold_in(key, i)


Metrics = dict[str, Array]
Weights = tuple[Float[Array, ""] | float, Float[Array, ""] | float]
TrainStep = Callable[[TrainState, nnx.State, Scoring, Targets, Weights], tuple[TrainState, Metrics]]
StageEnd = Callable[[TrainState, bool], TrainState]


@dataclass(frozen=True)
class Schedule:
    """Stages one after the other, each a whole number of epochs."""

    stages: tuple[Stage, ...]
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return self.epochs * self.steps_per_epoch

    def last_step(self, max_steps: int | None) -> int:
        """Returns the number of steps to do; raises `InputError` for a limit below one."""
        check_positive("max_steps", 1 if max_steps is None else max_steps)
        return min(self.steps, max_steps or self.steps)

    def at(self, step: int) -> tuple[int, int, Stage]:
        """Returns epoch and number of the stage, both from 1, and the stage of a 0-based step."""
        epoch = step // self.steps_per_epoch
        number = bisect([*accumulate(stage.epochs for stage in self.stages)], epoch)
        return epoch + 1, number + 1, self.stages[number]

    def ends_stage(self, step: int) -> bool:
        """Returns whether a stage is done after so many steps, at least one."""
        return step == self.steps or self.at(step)[1] != self.at(step - 1)[1]


def initial_lora(
    config: LlamaConfig, lora: LoRAConfig, mesh: Mesh, key: Key[Array, ""]
) -> nnx.State:
    """Draws a fresh adapter on the mesh. The base weights drawn beside it are never computed."""

    def draw(key: Key[Array, ""]) -> nnx.State:
        return nnx.state(Llama(config, lora, jnp.dtype("float32"), nnx.Rngs(key)), nnx.LoRAParam)

    shardings = parameter_shardings(jax.eval_shape(draw, key), mesh)
    return jax.jit(draw, out_shardings=shardings)(key)


def make_optimizer(settings: Optimizer, steps: int | None = None) -> GradientTransformation:
    """AdamW with optional clipping of the gradient's global norm.

    With `accumulation` k, the mean gradient of k steps makes one update. `steps` are those of all
    stages, at whose end a cosine or linear learning rate is 0; None: only shapes are wanted.
    """
    rule = _update_rule(settings, steps)
    if settings.accumulation == 1:
        return rule
    return optax.MultiSteps(rule, settings.accumulation).gradient_transformation()


def learning_rate(settings: Optimizer, steps: int | None) -> float | optax.Schedule:
    """Returns the rate, or the rate by update: a linear rise over `warmup` updates, then the rest.

    Raises `InputError` if the warm-up leaves nothing of the run.
    """
    peak, warmup = settings.learning_rate, settings.warmup
    if not settings.is_scheduled:
        return peak
    left = 1 if steps is None else -(-steps // settings.accumulation) - warmup
    if left < 1:
        raise InputError(f"optimizer.warmup: {warmup} updates are all of the run; use fewer")
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, left),
        "linear": optax.linear_schedule(peak, 0.0, left),
    }[settings.schedule]
    # The first update of a warm-up already learns.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def _update_rule(settings: Optimizer, steps: int | None) -> GradientTransformation:
    rate, decay, clip = learning_rate(settings, steps), settings.weight_decay, settings.grad_clip
    adamw = optax.adamw(rate, settings.b1, settings.b2, settings.eps, weight_decay=decay)
    return optax.chain(optax.identity() if clip is None else optax.clip_by_global_norm(clip), adamw)


def state_shardings(lora: nnx.State, optimizer: GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns a `TrainState` of shardings: parameters and moments by table, the rest replicated."""
    parameters, everywhere = parameter_shardings(lora, mesh), replicated(mesh)
    moments = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, lora),
        parameters,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(everywhere, parameters, moments, everywhere)


def initial_state(
    lora: nnx.State, optimizer: GradientTransformation, key: Key[Array, ""], mesh: Mesh
) -> TrainState:
    """Returns the state of step 0; the moments lie where their parameters lie."""
    return _state_maker(lora, optimizer, mesh)(lora, key)


def abstract_state(lora: nnx.State, optimizer: GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns shapes and shardings of a state whose adapter has the shapes of `lora`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(_state_maker(lora, optimizer, mesh), lora, key)


def _state_maker(
    lora: nnx.State, optimizer: GradientTransformation, mesh: Mesh
) -> Callable[[nnx.State, Any], TrainState]:
    def create(lora: nnx.State, key: Any) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), lora, optimizer.init(lora), key)

    return jax.jit(create, out_shardings=state_shardings(lora, optimizer, mesh))


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

    `lora` is trained, `base` frozen, `graph` the model's structure; `weights` are alpha and beta.
    Without a `key` there is no dropout.
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
    optimizer: GradientTransformation,
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
        leaves = jax.tree.leaves_with_path(lora)
        for factor in ("a", "b"):
            of_factor = [leaf for path, leaf in leaves if parameter_path(path)[-1] == factor]
            metrics[f"lora_{factor}_norm"] = optax.tree.norm(of_factor)
        metrics["grad_norm"] = optax.tree.norm(gradient)
        return TrainState(state.step + 1, lora, moments, state.key), metrics

    return step


def make_stage_end(
    settings: Optimizer, shardings: TrainState, steps: int | None = None
) -> StageEnd:
    """Returns what happens to a state after a stage's last step.

    Gradients that wait for an update (`accumulation`) make a smaller one now: none may reach into
    the next stage, whose losses are others. With `reset_between_stages`, the next stage starts with
    fresh moments. The second argument of what is returned says whether there is a next stage.
    """
    rule, optimizer = _update_rule(settings, steps), make_optimizer(settings, steps)

    def flushed(state: TrainState) -> TrainState:
        waiting = state.optimizer
        updates, inner = rule.update(waiting.acc_grads, waiting.inner_opt_state, state.lora)
        empty = optimizer.init(state.lora)._replace(
            gradient_step=waiting.gradient_step + 1, inner_opt_state=inner
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
