"""The border between two stages: no gradient of one reaches into the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ace_jax.recipe import Optimizer
from ace_jax.training.state import TrainState, make_optimizer, make_stage_end

START = {"w": jnp.array([1.0, -2.0])}
GRADIENTS = [{"w": jnp.array(values)} for values in ([1.0, 0.5], [3.0, -0.5], [-8.0, 4.0])]


def state_of(settings):
    optimizer = make_optimizer(settings)
    return TrainState(jnp.int32(0), START, optimizer.init(START), jax.random.key(0))


def after(state, settings, gradient):
    updates, moments = make_optimizer(settings).update(gradient, state.optimizer, state.lora)
    return TrainState(state.step + 1, optax.apply_updates(state.lora, updates), moments, state.key)


def test_waiting_gradients_make_an_update_of_their_own():
    settings = Optimizer(0.1, weight_decay=0.0, accumulation=3)
    end = make_stage_end(settings, None)
    state = state_of(settings)
    for gradient in GRADIENTS[:2]:
        state = after(state, settings, gradient)
    np.testing.assert_array_equal(state.lora["w"], START["w"])  # still waiting
    state = end(state, True)

    plain = Optimizer(0.1, weight_decay=0.0)
    mean = {"w": (GRADIENTS[0]["w"] + GRADIENTS[1]["w"]) / 2}
    expected = after(state_of(plain), plain, mean)
    np.testing.assert_allclose(state.lora["w"], expected.lora["w"], rtol=1e-6)

    # The next stage starts to count anew: two more gradients wait, the third updates.
    for gradient in GRADIENTS[:2]:
        state = after(state, settings, gradient)
        np.testing.assert_allclose(state.lora["w"], expected.lora["w"], rtol=1e-6)
    state = after(state, settings, GRADIENTS[2])
    mean = {"w": sum(gradient["w"] for gradient in GRADIENTS) / 3}
    expected = after(expected, plain, mean)
    np.testing.assert_allclose(state.lora["w"], expected.lora["w"], rtol=1e-6)


def test_a_stage_that_ends_on_an_update_changes_nothing():
    settings = Optimizer(0.1, accumulation=3)
    state = state_of(settings)
    for gradient in GRADIENTS:
        state = after(state, settings, gradient)
    before = np.array(state.lora["w"])
    np.testing.assert_array_equal(make_stage_end(settings, None)(state, True).lora["w"], before)


@pytest.mark.parametrize("reset", [True, False])
def test_moments_are_reset_only_if_asked_for_and_another_stage_follows(reset):
    settings = Optimizer(0.1, reset_between_stages=reset)
    end = make_stage_end(settings, None)

    def moment(goes_on):
        state = end(after(state_of(settings), settings, GRADIENTS[0]), goes_on)
        return float(jnp.abs(optax.tree.get(state.optimizer, "mu")["w"]).sum())

    assert (moment(True) == 0) == reset
    assert moment(False) > 0
