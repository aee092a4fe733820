"""Option likelihoods on trie rows against one forward an option."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_reference import option_log_likelihoods as torch_log_likelihoods

from ace_jax.likelihood import option_log_likelihoods, option_log_probabilities, option_mass
from ace_jax.prompts.batches import Scoring, Shapes, scoring
from ace_jax.prompts.encode import Prompt

PERSONAS = [
    "You are a person from Canada. Gender: Female. Residence: Rural.\n",
    "You are a person from Canada. Gender: Female. Residence: Urban. Marital status: Married.\n",
    "You are a person from Canada. Education: Not College Educated.\n",
]
TEXTS = [persona + "Can most people be trusted? Answer:\n" for persona in PERSONAS]
OPTIONS = {
    "two options of one token": ["1", "2"],
    "one token each": ["1", "2", "3", "4", "5"],
    "several tokens": ["Married", "Not Married", "It depends on the person"],
    "prefixes of one another": [str(number) for number in range(1, 12)],
    "a chain of prefixes": ["1", "11", "111", "1111"],
}


@pytest.fixture(scope="module")
def likelihoods(load, tiny_checkpoint):
    """The engine, compiled, as evaluate calls it."""
    graph, lora, base = load(tiny_checkpoint)

    @jax.jit
    def run(batch: Scoring) -> jax.Array:
        return option_log_likelihoods(nnx.merge(graph, lora, base), batch)

    return run


def check(likelihoods, model, prompts: list[Prompt], batch: Scoring) -> None:
    found = np.asarray(likelihoods(batch))
    for row, prompt in zip(found, prompts, strict=False):
        options = [list(option) for option in prompt.options]
        with torch.no_grad():
            wanted = torch_log_likelihoods(model, list(prompt.tokens), options).numpy()
        np.testing.assert_allclose(row[: len(options)], wanted, rtol=0, atol=1e-4)
        assert not row[len(options) :].any()


def prompts_of(tokenizer, labels: list[str]) -> list[Prompt]:
    encode = partial(tokenizer, add_special_tokens=False)
    options = tuple(tuple(encode(label)["input_ids"]) for label in labels)
    return [Prompt(tuple(tokenizer(text)["input_ids"]), options) for text in TEXTS]


@pytest.mark.parametrize("name", OPTIONS)
def test_equal_to_one_forward_an_option(name, likelihoods, tiny_torch, tokenizer):
    prompts = prompts_of(tokenizer, OPTIONS[name])
    lengths = {len(option) for option in prompts[0].options}
    assert (max(lengths) > 1) == ("token" not in name or "several" in name)
    batch = scoring(prompts, Shapes((256,), row_multiple=1, options=11), cells=4)
    assert batch.tokens.shape[0] == 1  # one trie for all
    check(likelihoods, tiny_torch, prompts, batch)


def test_equal_when_split_over_rows(likelihoods, tiny_torch, tokenizer):
    prompts = [
        prompt
        for name in ("several tokens", "prefixes of one another")
        for prompt in prompts_of(tokenizer, OPTIONS[name])
    ]
    batch = scoring(prompts, Shapes((64,), row_multiple=8, options=11, block=16), cells=8)
    used = (batch.edge_target < 8 * 11).any(axis=1)
    assert 1 < used.sum() < batch.tokens.shape[0] == 8  # and rows of padding
    check(likelihoods, tiny_torch, prompts, batch)


TOKENS = st.lists(st.integers(1, 5), min_size=1, max_size=6).map(tuple)
OPTION_SETS = st.lists(TOKENS, min_size=2, max_size=4, unique=True).map(tuple)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    cells=st.lists(st.tuples(TOKENS, OPTION_SETS), min_size=1, max_size=4),
    # Few token ids make much sharing; rows of 12 nodes make many rows, rows of 80 one.
    length_and_multiple=st.sampled_from([(12, 8), (80, 1)]),
)
def test_equal_for_any_tokens(likelihoods, tiny_torch, cells, length_and_multiple):
    length, multiple = length_and_multiple
    prompts = [Prompt(*cell) for cell in cells]
    batch = scoring(prompts, Shapes((length,), multiple, options=4, block=4), cells=4)
    check(likelihoods, tiny_torch, prompts, batch)


LOG = jnp.log(jnp.array([[0.1, 0.3, 1.0], [0.2, 0.05, 0.25]]))
MASK = jnp.array([[True, True, False], [True, True, True]])


def test_probabilities_are_renormalised_over_a_questions_own_options():
    p = np.exp(option_log_probabilities(LOG, MASK))
    np.testing.assert_allclose(p, [[0.25, 0.75, 0], [0.4, 0.1, 0.5]], rtol=1e-6)
    assert np.isneginf(option_log_probabilities(LOG, MASK)[0, 2])


def test_mass_is_what_the_options_had_before():
    np.testing.assert_allclose(option_mass(LOG, MASK), [0.4, 0.5], rtol=1e-6)
