"""A short training run from a peft adapter to a peft adapter, step for step against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from peft import PeftModel
from safetensors.numpy import load_file
from test_train import once
from torch_reference import train_adapter
from transformers import AutoModelForCausalLM

from ace_jax.losses import Anchor
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.formats.peft import (
    WEIGHTS,
    BaseModel,
    factors_of,
    read_lora_config,
    write_adapter,
)
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import place_scoring
from ace_jax.recipe import Optimizer
from ace_jax.training.step import (
    initial_lora,
    initial_state,
    make_optimizer,
    make_train_step,
    state_shardings,
)

ADAMW = {"learning_rate": 1e-3, "eps": 1e-8}
# Rows of the pairs: of either question, of both, and with a shared endpoint.
STEPS = [(0,), (4,), (2, 7), (0, 1), (3,)]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")


# Both losses are of one step.
optimizer_of, step_of = once(make_optimizer), once(make_train_step)


def train(graph, lora, base, survey, mesh, alpha, beta, weight_decay, steps=STEPS):
    """The package's own loop body, without files and logs."""
    optimizer = optimizer_of(Optimizer(**ADAMW, weight_decay=weight_decay))
    shardings = state_shardings(lora, optimizer, mesh)
    step = step_of(graph, optimizer, Anchor(), 0.0, shardings, mesh)
    state = initial_state(lora, optimizer, jax.random.key(0), mesh)
    losses = []
    for rows in steps:
        batch = survey.batch(rows)
        arrays = (place_scoring(batch.scoring, mesh), batch.targets)
        state, metrics = step(state, base, *arrays, (jnp.float32(alpha), jnp.float32(beta)))
        losses.append(float(metrics["loss"]))
    return state, losses


DECAY = 0.5  # one of 0.01 moves nothing by 1e-4 in five steps


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0)])
def test_five_steps_equal_the_reference(
    alpha, beta, load, peft_adapter, survey, mesh, tiny_checkpoint, tokenizer, tmp_path
):
    torch_model, adapter = peft_adapter(*TARGETS)
    before = load_file(adapter / WEIGHTS)
    batches = [survey.torch_pairs(rows) for rows in STEPS]
    torch_losses = train_adapter(
        torch_model,
        batches,
        alpha,
        beta,
        "options",
        **ADAMW,
        weight_decay=DECAY,
        betas=(0.9, 0.999),
    )

    graph, lora, base = load(tiny_checkpoint, adapter)
    state, losses = train(graph, lora, base, survey, mesh, alpha, beta, DECAY)
    np.testing.assert_allclose(losses, torch_losses, rtol=1e-4)

    config = read_lora_config(adapter, dropout=0.0)
    write_adapter(tmp_path / "trained", factors_of(state.lora), config, BaseModel("tiny"), "card")
    found = load_file(tmp_path / "trained" / WEIGHTS)
    wanted = {
        name.replace(".default", ""): parameter.detach().numpy()
        for name, parameter in torch_model.named_parameters()
        if parameter.requires_grad
    }
    assert found.keys() == wanted.keys() == before.keys()
    for name, parameter in wanted.items():
        np.testing.assert_allclose(found[name], parameter, rtol=0, atol=1e-4, err_msg=name)
        assert np.abs(parameter - before[name]).max() > 2e-3, name  # five steps went somewhere

    # What peft makes of the exported adapter is what was trained here.
    bare = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    worn = PeftModel.from_pretrained(bare, tmp_path / "trained").eval()
    tokens = jnp.array([survey.prompts[0].tokens])
    nodes = jnp.arange(tokens.size)[None]
    model = nnx.merge(graph, state.lora, base)
    rows = (tokens, nodes, nodes, jnp.full_like(nodes, tokens.size))
    logits = model.logits(model(*rows, jnp.empty((1, 1, 0), int), nodes))[0]
    with torch.no_grad():
        reference = worn(input_ids=torch.tensor([survey.prompts[0].tokens])).logits[0].numpy()
    np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-4)


def test_over_a_bfloat16_base_the_adapter_stays_float32(tiny_checkpoint, load, survey, mesh):
    config = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "up_proj"))
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    graph = abstract_model(checkpoint.config, config, jnp.dtype("bfloat16")).graph
    lora = initial_lora(checkpoint.config, config, mesh, jax.random.key(0))
    _, _, base = load(checkpoint, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(base)} == {"bfloat16"}

    state, losses = train(graph, lora, base, survey, mesh, 1.0, 1.0, 0.01, steps=[(0, 4)] * 4)
    assert losses[-1] < losses[0]
    arrays = [leaf for leaf in jax.tree.leaves((state.lora, state.optimizer)) if leaf.ndim]
    assert len(arrays) == 3 * 4  # parameters and two moments, A and B of two targets
    assert {leaf.dtype.name for leaf in arrays} == {"float32"}
