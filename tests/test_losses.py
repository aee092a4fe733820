"""Losses by hand, and the objective and its gradient against the paper's reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch_reference import lora_gradients, total_loss

from ace_jax.interop.peft import WEIGHTS, export_adapter, read_lora_config
from ace_jax.losses import anchor_loss, effect_loss
from ace_jax.training.step import objective

# Cells 0 and 1 have three options, 2 and 3 two.
P_MODEL = jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.5, 0.5, 0], [0.25, 0.75, 0]])
P_DATA = jnp.array([[0.6, 0.2, 0.2], [0.3, 0.2, 0.5], [0.9, 0.1, 0], [0.5, 0.5, 0]])
MASK = jnp.array([[True] * 3, [True] * 3, [True, True, False], [True, True, False]])
PAIRS = jnp.array([[0, 1], [2, 3]])


def test_effect_loss_of_a_model_that_does_not_move():
    p_model = jnp.full((2, 3), 1 / 3)
    ones = jnp.ones(1)
    # The docstring's example: cumulative differences 0.3, 0.3, 0.
    assert effect_loss(p_model, P_DATA[:2], MASK[:2], PAIRS[:1], ones) == pytest.approx(0.2)


def test_effect_loss_is_the_mean_over_options_and_pairs():
    # Pair 0: model -0.25, 0, 0.25 and data -0.3, 0, 0.3, cumulated 0.05, 0.05, 0: 0.1 / 3.
    # Pair 1: model -0.25, 0.25 and data -0.4, 0.4, cumulated 0.15, 0 over two options: 0.15 / 2.
    loss = effect_loss(P_MODEL, P_DATA, MASK, PAIRS, jnp.ones(2))
    assert loss == pytest.approx((0.1 / 3 + 0.075) / 2)
    loss = effect_loss(P_MODEL, P_DATA, MASK, PAIRS, jnp.array([1.0, 0.0]))
    assert loss == pytest.approx(0.1 / 3)  # weight 0 takes a pair out of sum and count


def test_anchor_loss_is_summed_over_endpoints():
    mode = jnp.array([1, 2, 0, 1])
    log_p = jnp.log(P_MODEL)  # -inf where there is no option
    first, second = -np.log(0.25) - np.log(0.5), -np.log(0.5) - np.log(0.75)
    loss = anchor_loss(log_p, mode, PAIRS, jnp.ones(2))
    assert loss == pytest.approx((first + second) / 2)
    assert anchor_loss(log_p, mode, PAIRS, jnp.array([0.0, 1.0])) == pytest.approx(second)
    # An endpoint of two pairs counts twice.
    shared = anchor_loss(log_p, mode, jnp.array([[0, 1], [0, 1], [2, 3]]), jnp.ones(3))
    assert shared == pytest.approx((2 * first + second) / 3)


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("alpha", "beta", "normalizer", "targets"),
    [
        (1.0, 0.0, "options", ATTENTION),
        (1.0, 0.0, "vocabulary", ("q_proj", "v_proj")),
        (0.0, 1.0, "options", ATTENTION),
        (0.5, 2.0, "options", ALL),
        (0.5, 2.0, "vocabulary", ALL),
    ],
)
def test_objective_and_gradient_equal_the_reference(
    alpha, beta, normalizer, targets, load, peft_adapter, survey, tiny_checkpoint, tmp_path
):
    rows = (0, 1, 6)  # the first two share an endpoint
    torch_model, adapter = peft_adapter(*targets)
    torch_loss = total_loss(torch_model, survey.torch_pairs(rows), alpha, beta, normalizer)
    wanted = lora_gradients(torch_model, torch_loss)

    graph, lora, base = load(tiny_checkpoint, adapter)
    batch = survey.batch(rows)

    @jax.jit
    def value_and_gradient(lora, base, scoring, targets):
        arguments = (base, graph, scoring, targets, alpha, beta, normalizer, None)
        return jax.value_and_grad(objective, has_aux=True)(lora, *arguments)

    (loss, parts), gradient = value_and_gradient(lora, base, batch.scoring, batch.targets)
    assert float(loss) == pytest.approx(torch_loss.item(), rel=1e-4)
    total = alpha * parts["anchor_loss"] + beta * parts["effect_loss"]
    assert float(loss) == pytest.approx(float(total))

    # A gradient has its parameters' form, so the exporter names and turns it as peft does.
    export_adapter(tmp_path, gradient, read_lora_config(adapter, 0.0), "tiny", "")
    found = load_file(tmp_path / WEIGHTS)
    assert len(found) == len(wanted) == 2 * 2 * len(targets)
    for name, reference in wanted.items():
        difference = torch.from_numpy(found[name.replace(".default", "")]) - reference
        assert difference.norm() <= 1e-4 * reference.norm(), name


def test_padding_pairs_and_their_cells_change_nothing(load, peft_adapter, survey, tiny_checkpoint):
    _, adapter = peft_adapter("q_proj")
    graph, lora, base = load(tiny_checkpoint, adapter)
    batch = survey.batch(rows=(0, 5))
    assert batch.targets.pair_weight.tolist() == [1, 1, 0, 0]
    other = {
        "mode": np.where(np.arange(8) < 4, batch.targets.mode, 2),
        "pairs": np.where(batch.targets.pair_weight[:, None] > 0, batch.targets.pairs, 1),
    }
    changed = type(batch.targets)(**{**vars(batch.targets), **other})

    @jax.jit
    def loss(scoring, targets):
        return objective(lora, base, graph, scoring, targets, 1.0, 1.0, "options", None)[0]

    found = loss(batch.scoring, batch.targets)
    assert jnp.isfinite(found)
    assert found == loss(batch.scoring, changed)
