"""The learning rate over a run, against values worked out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ace_jax.errors import InputError
from ace_jax.recipe import Optimizer
from ace_jax.training.step import learning_rate, make_optimizer


def rates(steps, **settings):
    rate = learning_rate(Optimizer(0.8, **settings), steps)
    return [float(rate(update)) for update in range(steps)]


def test_a_constant_rate_is_a_number():
    assert learning_rate(Optimizer(0.8), 10) == 0.8


def test_linear_and_cosine_fall_to_zero_after_the_warm_up():
    expected = [0.8 * (1 - k / 8) for k in range(8)]
    np.testing.assert_allclose(rates(8, schedule="linear"), expected, rtol=1e-6)
    cosine = [0.4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    np.testing.assert_allclose(rates(8, schedule="cosine"), cosine, rtol=1e-5)
    rise = [0.8 * (k + 1) / 4 for k in range(3)]
    warm = rates(11, schedule="cosine", warmup=3)
    np.testing.assert_allclose(warm, rise + cosine, rtol=1e-5)
    np.testing.assert_allclose(rates(5, warmup=3), [*rise, 0.8, 0.8], rtol=1e-6)


def test_accumulated_steps_make_one_update():
    rate = learning_rate(Optimizer(0.8, schedule="linear", accumulation=2), 8)
    np.testing.assert_allclose([float(rate(k)) for k in range(5)], [0.8, 0.6, 0.4, 0.2, 0])


def test_the_optimizer_follows_it():
    """Adam's first updates are the rate itself where gradients are equal."""
    settings = Optimizer(0.8, schedule="linear", weight_decay=0.0, eps=1e-12)
    optimizer, w = make_optimizer(settings, 4), jnp.zeros(1)
    state, moved = optimizer.init(w), []
    for _ in range(4):
        update, state = optimizer.update(jnp.ones(1), state, w)
        moved.append(float(-update[0]))
        w = optax.apply_updates(w, update)
    np.testing.assert_allclose(moved, [0.8, 0.6, 0.4, 0.2], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "optimizer.schedule: 'cosin' is not known; did you mean cosine"),
        ({"warmup": -1}, r"optimizer.warmup: -1 is not in \[0, inf\)"),
        ({"warmup": 10}, "optimizer.warmup: 10 updates are all of the run"),
        ({"schedule": "linear", "reset_between_stages": True}, "reset_between_stages"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        learning_rate(Optimizer(0.8, **settings), 10)
