"""The likelihood engine's contract: what one forward an option gives, for any trie."""

import itertools

import jax
import jax.numpy as jnp
import naive_reference
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from ace_jax.losses import Anchor
from ace_jax.model.architecture import LlamaConfig, Rope
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import TARGETS, LoRAConfig
from ace_jax.model.sharding import make_mesh, place_scoring, replicated, row_shards
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt, PromptText
from ace_jax.recipe import Batch, Optimizer
from ace_jax.training.data import Collate, Examples
from ace_jax.training.step import (
    initial_state,
    make_optimizer,
    make_train_step,
    objective,
    state_shardings,
)
from ace_jax.training.units import Units

CONFIG = LlamaConfig(
    vocab_size=11,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope=Rope(100.0),
    tie_word_embeddings=False,
)
LORA = LoRAConfig(rank=2, alpha=4.0, dropout=0.0, targets=TARGETS)
LENGTHS = (16, 36, 64)  # 36 is not whole blocks of 8
OPTIONS, CELLS, PAIRS, LONGEST = 11, 12, 8, 12


@pytest.fixture(scope="module")
def model():
    """Structure, adapter and base; random, far from an untrained adapter and from flat answers."""
    model = abstract_model(CONFIG, LORA, jnp.dtype("float32"))
    draw = np.random.default_rng(0)

    def random(leaf):
        return jnp.asarray(draw.normal(0, 0.4, leaf.shape), jnp.float32)

    return model.graph, jax.tree.map(random, model.lora), jax.tree.map(random, model.base)


@pytest.fixture(scope="module")
def engine(model):
    """Loss and gradient on a batch's arrays."""
    graph, _, _ = model

    @jax.jit(static_argnames="normalizer")
    def run(lora, base, scoring, targets, normalizer):
        weights, anchor = (0.7, 1.3), Anchor(normalizer=normalizer)
        arguments = (base, graph, scoring, targets, weights, anchor)
        (loss, _), gradient = jax.value_and_grad(objective, has_aux=True)(lora, *arguments)
        return loss, gradient

    return run


@pytest.fixture(scope="module")
def reference():
    @jax.jit(static_argnames="normalizer")
    def run(lora, base, sequences, option_mask, targets, normalizer):
        def loss(lora):
            parameters = nnx.to_pure_dict(nnx.merge_state(lora, base))
            arguments = (LORA.scale, sequences, option_mask, targets, 0.7, 1.3, normalizer)
            return naive_reference.loss(parameters, CONFIG, *arguments)

        return jax.value_and_grad(loss)(lora)

    return run


def sequence(longest):
    return st.lists(st.integers(1, 3), min_size=1, max_size=longest).map(tuple)


@st.composite
def surveys(draw):
    """Up to three contexts: personas' prompts, options, and pairs of personas."""
    prompts, answers, pairs = [], [], []
    for context in range(draw(st.integers(1, 3))):
        sets = st.lists(sequence(3), min_size=2, max_size=OPTIONS, unique=True).map(tuple)
        options = draw(sets)
        personas = draw(st.lists(sequence(LONGEST - 3), min_size=2, max_size=4))
        first, weights = len(prompts), np.arange(1, len(options) + 1.0)
        prompts += [Prompt(tokens, options) for tokens in personas]
        answers += [np.roll(weights, cell) / weights.sum() for cell in range(len(personas))]
        toggles = list(itertools.combinations(range(first, len(prompts)), 2))
        kept = draw(st.lists(st.sampled_from(toggles), min_size=1, max_size=4, unique=True))
        pairs += [(*toggle, context) for toggle in kept]
    table = pd.DataFrame(pairs, columns=["cell_0", "cell_1", "context"])
    table = table.assign(country="CAN", weight=np.linspace(0.5, 1.5, len(pairs)))
    # Cells of no pair, so that C is the same for every survey.
    prompts += [prompts[0]] * (CELLS - len(prompts))
    answers += [answers[0]] * (CELLS - len(answers))
    texts = [PromptText(" ".join(map(str, prompt.tokens)), ()) for prompt in prompts]
    return Examples(table, texts, answers, [int(p.argmax()) for p in answers]), prompts


def collate(examples, prompts, length, multiple):
    shapes = Shapes((length,), multiple, OPTIONS, block=8)
    return Collate(examples, prompts, shapes, max_pairs=PAIRS)


@pytest.mark.parametrize("devices", [1, 4])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    survey=surveys(),
    # A row of 16 holds one or two prompts, one of 64 most surveys.
    length=st.sampled_from(LENGTHS),
    unit=st.sampled_from([("pair", 3, 1), ("context", 1, 1), ("context", 2, 2)]),
    normalizer=st.sampled_from(["options", "vocabulary"]),
)
def test_loss_and_gradient_are_those_without_sharing(
    devices, model, engine, reference, mesh, survey, length, unit, normalizer
):
    _, lora, base = model
    examples, prompts = survey
    where = make_mesh(4, 1, 1, jax.devices()[:4]) if devices == 4 else mesh
    lay_out = collate(examples, prompts, length, row_shards(where))
    units = Units.cut(examples, Batch(*unit, (64,)))
    batch = lay_out(units.rows[: units.size])
    parameters = jax.device_put((lora, base), replicated(where))
    scoring = place_scoring(batch.scoring, where)
    assert len(scoring.tokens.sharding.device_set) == devices
    loss, gradient = engine(*parameters, scoring, batch.targets, normalizer=normalizer)

    cells = np.unique(examples.pairs[["cell_0", "cell_1"]].to_numpy()[batch.rows])
    of_cells = [prompts[cell] for cell in cells]
    sequences = naive_reference.sequences(of_cells, CELLS, OPTIONS, LONGEST)
    arrays = (sequences, batch.scoring.option_mask, batch.targets)
    wanted, reference_gradient = reference(lora, base, *arrays, normalizer=normalizer)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    # Beside the whole gradient a parameter's may be no more than rounding.
    rounding = 1e-6 * float(optax.tree.norm(reference_gradient))
    wanted_leaves = jax.tree.leaves_with_path(reference_gradient)
    for (path, target), found in zip(wanted_leaves, jax.tree.leaves(gradient), strict=True):
        difference = np.linalg.norm(np.asarray(found) - np.asarray(target))
        assert difference <= 1e-4 * np.linalg.norm(target) + rounding, jax.tree_util.keystr(path)


def test_another_batch_of_the_same_bucket_is_not_compiled_again(model, mesh):
    graph, lora, base = model
    optimizer = make_optimizer(Optimizer(1e-3, weight_decay=0.0))
    shardings = state_shardings(lora, optimizer, mesh)
    step = make_train_step(graph, optimizer, Anchor(), 0.0, shardings, mesh)
    state = initial_state(lora, optimizer, jax.random.key(0), mesh)
    base = jax.device_put(base, replicated(mesh))

    def run(prompts, pairs):
        nonlocal state
        count = len(prompts)
        prompts = prompts + [prompts[0]] * (CELLS - count)
        answers = [np.full(len(prompt.options), 1 / len(prompt.options)) for prompt in prompts]
        table = pd.DataFrame(pairs, columns=["cell_0", "cell_1"]).assign(weight=1.0)
        examples = Examples(table, [], answers, [0] * CELLS)
        shapes = Shapes((32, 64), 1, OPTIONS, block=8)
        batch = Collate(examples, prompts, shapes, PAIRS)([np.arange(len(pairs))])
        scoring = place_scoring(batch.scoring, mesh)
        one = jnp.float32(1)
        state, _ = step(state, base, scoring, batch.targets, (one, one))
        return scoring.tokens.shape

    few = [Prompt((1, 2, 3, cell), ((1,), (2,), (1, 2))) for cell in range(4, 8)]
    other = [Prompt((4, cell, cell, 2, 1), ((1,), (2,))) for cell in range(3, 9)]
    many = [Prompt((cell, 4, cell, 2, 1), ((1,), (2,))) for cell in range(10)]
    assert run(few, [(0, 1), (2, 3)]) == run(other, [(0, 1), (1, 2), (4, 5)]) == (1, 32)
    assert step._cache_size() == 1
    assert run(many, [(cell, cell + 1) for cell in range(8)]) == (1, 64)
    assert step._cache_size() == 2
