"""Losses by hand, and the objective and its gradient against the paper's reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.stats import entropy, wasserstein_distance
from torch_reference import (
    lora_gradients,
    option_distribution,
    option_log_likelihoods,
    total_loss,
)

from ace_jax.losses import Anchor, anchor_loss, effect_loss, forward_kl_loss, wasserstein_loss
from ace_jax.model.formats.peft import (
    WEIGHTS,
    BaseModel,
    factors_of,
    read_lora_config,
    write_adapter,
)
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


@st.composite
def answers(draw):
    """Four cells of two to six options: answers of a model, of a survey, and the options."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=4, max_size=4))
    seed = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p_model, p_data, mask = np.zeros((4, 6)), np.zeros((4, 6)), np.zeros((4, 6), bool)
    for cell, size in enumerate(sizes):
        p_model[cell, :size] = seed.dirichlet(np.ones(size))
        p_data[cell, :size] = seed.multinomial(9, np.full(size, 1 / size)) / 9  # zeros among them
        mask[cell, :size] = True
    return p_model, p_data, mask


@settings(deadline=None, max_examples=30)
@given(answers())
def test_losses_of_whole_distributions_equal_scipys(answers):
    p_model, p_data, mask = (jnp.asarray(part) for part in answers)
    with np.errstate(divide="ignore"):
        log_p = jnp.asarray(np.log(answers[0]))  # -inf where there is no option
    weight = jnp.array([0.5, 1.5])
    cells = [(p[m], q[m], m.sum()) for p, q, m in zip(*answers, strict=True)]
    divergence = [entropy(data, model) for model, data, _ in cells]
    expected = (0.5 * sum(divergence[:2]) + 1.5 * sum(divergence[2:])) / 2
    found = forward_kl_loss(log_p, p_data, mask, PAIRS, weight)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    moved = [
        wasserstein_distance(np.arange(size), np.arange(size), model, data) / (size - 1)
        for model, data, size in cells
    ]
    expected = (0.5 * np.mean(moved[:2]) + 1.5 * np.mean(moved[2:])) / 2
    found = wasserstein_loss(p_model, p_data, mask, PAIRS, weight)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_where_all_answer_alike_forward_kl_is_the_anchor_loss():
    mode = jnp.array([1, 2, 0, 1])
    arguments = (jnp.log(P_MODEL), jax.nn.one_hot(mode, 3), MASK, PAIRS, jnp.array([1.0, 2.0]))
    expected = anchor_loss(jnp.log(P_MODEL), mode, PAIRS, jnp.array([1.0, 2.0]))
    assert forward_kl_loss(*arguments) == pytest.approx(float(expected))


def test_no_gradient_is_lost_to_missing_options_and_padding_cells():
    """Cell 2 has two options; cell 3 is padding, which has one and no answers."""
    mask = jnp.array([[True] * 3, [True] * 3, [True, True, False], [True, False, False]])
    p_data = P_DATA.at[3].set(0)
    pairs, weight = jnp.array([[0, 1], [1, 2], [0, 0]]), jnp.array([1.0, 1.0, 0.0])

    def losses(logits):
        log_p = jax.nn.log_softmax(logits, where=mask)
        kl = forward_kl_loss(log_p, p_data, mask, pairs, weight)
        return jnp.stack([kl, wasserstein_loss(jnp.exp(log_p), p_data, mask, pairs, weight)])

    logits = jnp.log(jnp.maximum(P_MODEL, 0.1))
    gradient = jax.jit(jax.jacobian(losses))(logits)
    assert jnp.isfinite(gradient).all()
    assert (jnp.abs(gradient).max(axis=2)[:, :3] > 1e-3).all()
    assert (gradient[:, 3] == 0).all()
    # Of the divergence, in logits: model less survey, times the pairs that a cell is in.
    model = jax.nn.softmax(logits, where=mask)
    of_pairs = jnp.array([1.0, 2.0, 1.0, 0.0])[:, None] / 2
    np.testing.assert_allclose(gradient[0], of_pairs * (model - p_data), atol=1e-6)


ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@jax.jit(static_argnames=("graph", "normalizer"))
def value_and_gradient(lora, base, graph, scoring, targets, weights, normalizer):
    anchor = Anchor(normalizer=normalizer)
    differentiated = jax.value_and_grad(objective, has_aux=True)
    return differentiated(lora, base, graph, scoring, targets, weights, anchor)


@pytest.mark.parametrize(
    ("alpha", "beta", "normalizer"),
    [
        (1.0, 0.0, "options"),
        (1.0, 0.0, "vocabulary"),
        (0.0, 1.0, "options"),
        (0.5, 2.0, "options"),
        (0.5, 2.0, "vocabulary"),
    ],
)
def test_objective_and_gradient_equal_the_reference(
    alpha, beta, normalizer, load, peft_adapter, survey, tiny_checkpoint, tmp_path
):
    rows = (0, 1, 6)  # the first two share an endpoint
    torch_model, adapter = peft_adapter(*ALL)
    torch_loss = total_loss(torch_model, survey.torch_pairs(rows), alpha, beta, normalizer)
    wanted = lora_gradients(torch_model, torch_loss)

    graph, lora, base = load(tiny_checkpoint, adapter)
    batch = survey.batch(rows)

    weights = (jnp.float32(alpha), jnp.float32(beta))
    (loss, parts), gradient = value_and_gradient(
        lora, base, graph, batch.scoring, batch.targets, weights, normalizer
    )
    assert float(loss) == pytest.approx(torch_loss.item(), rel=1e-4)
    total = alpha * parts["anchor_loss"] + beta * parts["effect_loss"]
    assert float(loss) == pytest.approx(float(total))

    # A gradient has its parameters' form, so the exporter names and turns it as peft does.
    config = read_lora_config(adapter, 0.0)
    write_adapter(tmp_path / "gradient", factors_of(gradient), config, BaseModel("tiny"), "")
    found = load_file(tmp_path / "gradient" / WEIGHTS)
    assert len(found) == len(wanted) == 2 * 2 * len(ALL)
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
        return objective(lora, base, graph, scoring, targets, (1.0, 1.0), Anchor())[0]

    found = loss(batch.scoring, batch.targets)
    assert jnp.isfinite(found)
    assert found == loss(batch.scoring, changed)


@pytest.mark.parametrize(
    ("anchor", "normalizer"),
    [("forward_kl", "options"), ("forward_kl", "vocabulary"), ("wasserstein", "options")],
)
def test_alpha_weighs_the_anchor_that_was_asked_for(
    anchor, normalizer, load, survey, tiny_checkpoint, tiny_torch
):
    graph, lora, base = load(tiny_checkpoint)
    rows = (0, 6)
    batch = survey.batch(rows)

    @jax.jit
    def parts(scoring, targets):
        which = Anchor(anchor, normalizer)
        return objective(lora, base, graph, scoring, targets, (3.0, 0.5), which)[1]

    found = parts(batch.scoring, batch.targets)
    total = 3 * found["anchor_loss"] + 0.5 * found["effect_loss"]
    assert float(found["loss"]) == pytest.approx(float(total), rel=1e-6)

    values = []
    for pair in survey.torch_pairs(rows):
        for end in (pair.s0, pair.s1):
            with torch.no_grad():
                scores = option_log_likelihoods(tiny_torch, end.prompt_ids, end.options)
            p, positions = option_distribution(scores).numpy(), np.arange(len(end.options))
            if anchor == "wasserstein":
                moved = wasserstein_distance(positions, positions, p, end.p_data)
                values.append(moved / (len(p) - 1) / 2)  # mean over the two endpoints
            else:
                lost = 0 if normalizer == "options" else -scores.exp().sum().log().item()
                values.append(entropy(end.p_data, p) + lost)
    assert float(found["anchor_loss"]) == pytest.approx(sum(values) / 2, rel=1e-4)
