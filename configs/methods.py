"""Recipes to train by, and to compare. Each is a few fields of the quickstart, for six epochs.

    python -m ace_jax.train --config configs/methods.py:joint --workdir runs/joint/train
    python -m ace_jax.evaluate --adapter runs/joint/train/adapter --workdir runs/joint/scored

In Python: `ace_jax.fine_tune(..., recipe="joint")`. `base` and `adprompt` have nothing to train:
score them with configs/evaluate.py:methods:adprompt. --config.data.holdout=persona:paper holds out
the paper's unseen personas (Fig. 4) instead of questions. `paper@2` is `paper` in two epochs,
shared equally among its stages. launch/results.sh runs them.

The two losses of `paper-joint` differ in scale: on the training contexts of seed 0, before the
first update, the anchor loss is 2.80 and the effect loss 0.0493 on average. Beta makes them equal.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

QUICKSTART = runpy.run_path(str(Path(__file__).with_name("quickstart.py")))
BALANCE = 57.0  # 2.80 / 0.0493

METHODS: dict[str, dict[str, object]] = {
    "base": {"objective.stages": ()},
    # Anthropological prompting (AlKhamissi et al., 2024): the prompt alone.
    "adprompt": {"objective.stages": (), "prompt.template": "anthropological"},
    # As published (ACE-Align): the anchor loss, then the effect loss.
    "paper": {"objective.stages": ((1.0, 0.0, 3), (0.0, 1.0, 3))},
    "paper-joint": {"objective.stages": ((1.0, BALANCE, 6),)},
    # Its halves. The anchor alone is CultureLLM (Li et al., 2024) without augmentation.
    "anchor": {"objective.stages": ((1.0, 0.0, 6),)},
    "effect": {"objective.stages": ((0.0, 1.0, 6),)},
    # The whole distribution of answers in the place of its mode.
    "kl": {"objective.anchor": "forward_kl", "objective.stages": ((1.0, 0.0, 6),)},
    # SubPOP (Suh et al., 2025): the same, of cells that name one attribute.
    "subpop": {
        "data.granularity": 1,
        "objective.anchor": "forward_kl",
        "objective.stages": ((1.0, 0.0, 6),),
    },
    # What Eq. 15 measures, as the loss.
    "wasserstein": {"objective.anchor": "wasserstein", "objective.stages": ((1.0, 0.0, 6),)},
    # Distribution Shift Alignment (arXiv 2510.21977): distributions, then distributions and their
    # shifts between groups. Its abstract says no more, so two readings are ours: forward KL for
    # distributions, and the effect loss (Eq. 11) for shifts, with the weight of `joint`.
    "dsa": {
        "objective.anchor": "forward_kl",
        "objective.stages": ((1.0, 0.0, 3), (1.0, 20.0, 3)),
    },
    # The losses and the rate of configs/eqls.py (docs/results.md), and the default of
    # `ace_jax.fine_tune`. Dropout would move the two ends of a pair apart.
    "joint": {
        "lora.dropout": 0.0,
        "objective.anchor": "forward_kl",
        "objective.pair_weight": "toggle",
        "objective.stages": ((1.0, 20.0, 6),),
        "optimizer.learning_rate": 1e-3,
        "optimizer.grad_clip": 1.0,
        "optimizer.warmup": 10,
    },
}


def get_config(method: str = "paper") -> ConfigDict:
    name, _, epochs = method.partition("@")
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"configs/methods.py has no method {name!r}; there are: {known}")
    config = QUICKSTART["get_config"]().unlock()
    config.update_from_flattened_dict(METHODS[name])
    if epochs and not epochs.isdecimal():
        raise ValueError(f"configs/methods.py: {method!r} is not METHOD@EPOCHS, as in paper@2")
    if epochs:
        config.objective.stages = shortened(config.objective.stages, int(epochs))
    return config.lock()


def shortened(stages: tuple, epochs: int) -> tuple:
    """Returns the stages with as many epochs in all."""
    each, left = divmod(epochs, max(len(stages), 1))
    if left or not each:
        raise ValueError(f"{len(stages)} stages cannot share {epochs} epochs alike")
    return tuple((alpha, beta, each) for alpha, beta, _ in stages)
