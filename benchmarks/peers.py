"""What ace_jax is compared with: PyTorch's step on the same pairs, and ours beside it.

    released   transformers and peft as in the authors' code: a pass for either endpoint, left
               padding, logits at every position, gradient checkpointing
    best       PyTorch at its best on the same batch: one pass, the head at the last position only,
               no checkpointing

Every option has to be one token: all are read off one position.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from peft import LoraConfig, PeftModel, get_peft_model

from ace_jax.losses import Anchor
from ace_jax.model.architecture import LlamaConfig, base_dtype
from ace_jax.model.formats.hf import TensorSource, load_base
from ace_jax.model.formats.peft import load_adapter
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import ATTENTION_TARGETS, LoRAConfig
from ace_jax.model.sharding import make_mesh, place_scoring
from ace_jax.planning.program import matmul_flops
from ace_jax.prompts.batches import Scoring, Targets
from ace_jax.prompts.encode import Prompt
from ace_jax.recipe import Optimizer
from ace_jax.training.data import Examples, TrainingBatch
from ace_jax.training.step import (
    initial_state,
    make_optimizer,
    make_train_step,
    objective,
    state_shardings,
)

ADAMW = {"learning_rate": 2e-5, "weight_decay": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-8}
ALPHA = BETA = 1.0
PAIRS = 8  # a batch of the released code
ADAPTER = LoRAConfig(rank=8, alpha=16.0, dropout=0.0, targets=ATTENTION_TARGETS)


class Step(NamedTuple):
    """What a step gives: its loss, and the norm of the adapter's gradient."""

    loss: float
    gradient: float


def with_adapter(model: torch.nn.Module, directory: Path) -> PeftModel:
    """Puts a random adapter on the model and saves it."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=ADAPTER.rank, lora_alpha=ADAPTER.alpha, target_modules=list(ADAPTER.targets)
    )
    worn = get_peft_model(model, config)
    for name, parameter in worn.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    worn.save_pretrained(directory)
    return worn


def released(model: PeftModel) -> PeftModel:
    """Returns the model as the authors' code trains it."""
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    return model.train()


def left_padded(prompts: list[tuple[int, ...]], device: torch.device) -> dict[str, torch.Tensor]:
    """Returns a batch as transformers' tokenizers pad it for a model that goes on writing."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def peer(
    model: torch.nn.Module,
    examples: Examples,
    prompts: list[Prompt],
    rows: list[int],
    last_only: bool,
    autocast: bool,
) -> Callable[[], Step]:
    """Returns PyTorch's step on some pairs.

    Args:
      model: with an adapter; its dtype and device are those of the step.
      examples: what the pairs are of.
      prompts: its prompts, tokenised.
      rows: the pairs.
      last_only: one pass for all endpoints, and one position projected.
      autocast: matmuls in bfloat16 whatever the model's dtype.
    """
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    betas = (ADAMW["b1"], ADAMW["b2"])
    optimizer = torch.optim.AdamW(
        trained, ADAMW["learning_rate"], betas, ADAMW["eps"], ADAMW["weight_decay"]
    )
    ends = [examples.pairs[name].to_numpy()[rows].tolist() for name in ("cell_0", "cell_1")]

    def log_p(cells: list[int]) -> list[torch.Tensor]:
        batch = left_padded([prompts[cell].tokens for cell in cells], device)
        keep = {"logits_to_keep": 1} if last_only else {}
        logits = model(**batch, **keep, use_cache=False).logits[:, -1].float()
        labels = [[token for (token,) in prompts[cell].options] for cell in cells]
        return [row[label].log_softmax(0) for row, label in zip(logits, labels, strict=True)]

    def step() -> Step:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            passes = [[*ends[0], *ends[1]]] if last_only else ends
            sides = [p for cells in passes for p in log_p(cells)]
        losses = []
        for number, (cell_0, cell_1) in enumerate(zip(*ends, strict=True)):
            p_0, p_1 = sides[number], sides[len(rows) + number]
            anchor = -p_0[examples.modes[cell_0]] - p_1[examples.modes[cell_1]]
            moved = torch.tensor(examples.answers[cell_1] - examples.answers[cell_0])
            effect = (p_1.exp() - p_0.exp() - moved.float().to(device)).cumsum(0).abs().mean()
            losses.append(ALPHA * anchor + BETA * effect)
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
        optimizer.step()
        return Step(loss.item(), norm.item())

    return step


def engine(
    config: LlamaConfig, source: TensorSource, adapter: Path, dtype: str, attention: str = "xla"
) -> Callable[[TrainingBatch], Step]:
    """Returns ace_jax's step as train runs it."""
    mesh = make_mesh(1, 1, 1)
    model = abstract_model(config, ADAPTER, base_dtype(dtype), attention=attention)
    base = load_base(model.base, source, mesh)
    lora = load_adapter(adapter, model.lora, mesh)
    optimizer = make_optimizer(Optimizer(**ADAMW))
    shardings = state_shardings(lora, optimizer, mesh)
    train_step = make_train_step(model.graph, optimizer, Anchor(), 0.0, shardings, mesh)
    state = initial_state(lora, optimizer, jax.random.key(0), mesh)

    def step(batch: TrainingBatch) -> Step:
        nonlocal state
        weights = (jnp.float32(ALPHA), jnp.float32(BETA))
        scoring = place_scoring(batch.scoring, mesh)
        state, metrics = train_step(state, base, scoring, batch.targets, weights)
        return Step(float(metrics["loss"]), float(metrics["grad_norm"]))

    return step


def step_flops(config: LlamaConfig, lora: LoRAConfig, batch: TrainingBatch) -> int:
    """Returns the operations of the matrix products of ace_jax's step, whatever the machine."""
    model = abstract_model(config, lora, jnp.dtype("bfloat16"))

    def gradient(lora: nnx.State, base: nnx.State, scoring: Scoring, targets: Targets) -> nnx.State:
        of = partial(objective, alpha=ALPHA, beta=BETA, normalizer="options", key=None)
        loss = lambda lora: of(lora, base, model.graph, scoring, targets)[0]  # noqa: E731
        return jax.grad(loss)(lora)

    traced = jax.make_jaxpr(gradient)(model.lora, model.base, batch.scoring, batch.targets)
    return matmul_flops(traced.jaxpr)
