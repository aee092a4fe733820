"""Methods to compare. Each is a few fields of the quickstart, and all train for six epochs.

    python -m ace_jax.train --config configs/methods.py:forward-kl --workdir runs/forward-kl/train
    python -m ace_jax.evaluate --adapter runs/forward-kl/train/adapter \
        --workdir runs/forward-kl/scored

`base` and `adprompt` have nothing to train: score them with configs/evaluate.py:methods:adprompt.
--config.data.holdout=persona:paper holds out the paper's unseen personas (Fig. 4) instead of
questions. launch/results.sh runs all methods but `joint`. `ace@2` is `ace` in two epochs instead of
six, shared equally among its stages.

The two losses of `ace-joint` differ in scale: on the training contexts of seed 0, before the first
update, the anchor loss is 2.80 and the effect loss 0.0493 on average. Beta makes them equal.
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
    # CultureLLM (Li et al., 2024) without augmentation.
    "anchor-only": {"objective.stages": ((1.0, 0.0, 6),)},
    "causal-only": {"objective.stages": ((0.0, 1.0, 6),)},
    "ace": {"objective.stages": ((1.0, 0.0, 3), (0.0, 1.0, 3))},
    "ace-joint": {"objective.stages": ((1.0, BALANCE, 6),)},
    # Targets and weights that sampling noise moves less (docs/estimators.md). The DATASET:
    # python -m ace_jax.prepare --source gss2018 --estimator shrunk --output runs/gss2018-shrunk
    "ace-shrunk": {
        "data.path": "runs/gss2018-shrunk",
        "objective.stages": ((1.0, 0.0, 3), (0.0, 1.0, 3)),
        "objective.pair_weight": "precision",
    },
    # The whole distribution of answers in the place of its mode, as SubPOP (Suh et al., 2025).
    "forward-kl": {"objective.anchor": "forward_kl", "objective.stages": ((1.0, 0.0, 6),)},
    # Both losses together, at a usual rate: the default of `ace_jax.fine_tune`.
    "joint": {
        "objective.anchor": "forward_kl",
        "objective.stages": ((1.0, 10.0, 6),),
        "optimizer.learning_rate": 1e-3,
        "optimizer.grad_clip": 1.0,
    },
    # What Eq. 15 measures, as the loss.
    "wasserstein": {"objective.anchor": "wasserstein", "objective.stages": ((1.0, 0.0, 6),)},
}


def get_config(method: str = "ace") -> ConfigDict:
    name, _, epochs = method.partition("@")
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"configs/methods.py has no method {name!r}; there are: {known}")
    config = QUICKSTART["get_config"]().unlock()
    config.update_from_flattened_dict(METHODS[name])
    if epochs:
        config.objective.stages = shortened(config.objective.stages, int(epochs))
    return config.lock()


def shortened(stages: tuple, epochs: int) -> tuple:
    """Returns the stages with as many epochs in all."""
    each, left = divmod(epochs, max(len(stages), 1))
    if left or not each:
        raise ValueError(f"{len(stages)} stages cannot share {epochs} epochs alike")
    return tuple((alpha, beta, each) for alpha, beta, _ in stages)
