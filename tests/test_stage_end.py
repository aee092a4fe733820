"""Stages one after the other: no gradient of one reaches into the next."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ace_jax.recipe import Optimizer, Stage
from ace_jax.training.step import Schedule, TrainState, make_optimizer, make_stage_end

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def parameters(*values):
    return nnx.State({"w": nnx.LoRAParam(jnp.array(values))})


START = parameters(1.0, -2.0)
GRADIENTS = [parameters(1.0, 0.5), parameters(3.0, -0.5), parameters(-8.0, 4.0)]


def values(tree):
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(tree)])


def mean(*gradients):
    return jax.tree.map(lambda *parts: sum(parts) / len(parts), *gradients)


def stage_end(settings):
    return make_stage_end(settings, jax.tree.map(lambda _: DEVICE, state_of(settings)))


def state_of(settings):
    optimizer = make_optimizer(settings)
    return TrainState(jnp.int32(0), START, optimizer.init(START), jax.random.key(0))


def after(state, settings, gradient):
    updates, moments = make_optimizer(settings).update(gradient, state.optimizer, state.lora)
    return TrainState(state.step + 1, optax.apply_updates(state.lora, updates), moments, state.key)


def test_waiting_gradients_make_an_update_of_their_own():
    settings = Optimizer(0.1, weight_decay=0.0, accumulation=3)
    end = stage_end(settings)
    state = state_of(settings)
    for gradient in GRADIENTS[:2]:
        state = after(state, settings, gradient)
    np.testing.assert_array_equal(values(state.lora), values(START))  # still waiting
    state = end(state, True)

    plain = Optimizer(0.1, weight_decay=0.0)
    expected = after(state_of(plain), plain, mean(*GRADIENTS[:2]))
    np.testing.assert_allclose(values(state.lora), values(expected.lora), rtol=1e-6)

    # The next stage starts to count anew: two more gradients wait, the third updates.
    for gradient in GRADIENTS[:2]:
        state = after(state, settings, gradient)
        np.testing.assert_allclose(values(state.lora), values(expected.lora), rtol=1e-6)
    state = after(state, settings, GRADIENTS[2])
    expected = after(expected, plain, mean(*GRADIENTS))
    np.testing.assert_allclose(values(state.lora), values(expected.lora), rtol=1e-6)


def test_a_stage_that_ends_on_an_update_changes_nothing():
    settings = Optimizer(0.1, accumulation=3)
    state = state_of(settings)
    for gradient in GRADIENTS:
        state = after(state, settings, gradient)
    before = values(state.lora)
    np.testing.assert_array_equal(values(stage_end(settings)(state, True).lora), before)


@pytest.mark.parametrize("reset", [True, False])
def test_moments_are_reset_only_if_asked_for_and_another_stage_follows(reset):
    settings = Optimizer(0.1, reset_between_stages=reset)
    end = stage_end(settings)

    def moment(goes_on):
        state = end(after(state_of(settings), settings, GRADIENTS[0]), goes_on)
        return np.abs(values(optax.tree.get(state.optimizer, "mu"))).sum()

    assert (moment(True) == 0) == reset
    assert moment(False) > 0


SCHEDULE = Schedule((Stage(1.0, 0.0, 2), Stage(0.5, 1.0, 1)), steps_per_epoch=3)


def test_stages_follow_each_other_by_epochs():
    anchor, both = SCHEDULE.stages
    assert (SCHEDULE.epochs, SCHEDULE.steps) == (3, 9)
    assert [SCHEDULE.at(step) for step in range(9)] == (
        [(1, 1, anchor)] * 3 + [(2, 1, anchor)] * 3 + [(3, 2, both)] * 3
    )
    with pytest.raises(IndexError):
        SCHEDULE.at(9)
