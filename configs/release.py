"""The authors' released code and data: its LoRA, its anchor loss, and its own option labels.

    python -m ace_jax.train --config configs/release.py --workdir runs/release \
        --config.data.path=ACE-Align/data/train
    python -m ace_jax.evaluate --config configs/evaluate.py:release --workdir runs/release-eval \
        --config.data.path=ACE-Align/data/eval --config.data.split=all

The released code differs from the paper: LoRA of rank 16 and alpha 32, and an anchor loss over the
whole vocabulary. It names options by the questionnaire's codes, which may start at 0.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

PAPER = runpy.run_path(str(Path(__file__).with_name("ace.py")))


def get_config() -> ConfigDict:
    config = PAPER["get_config"]().unlock()
    config.data.path = "ACE-Align/data/train"
    config.data.holdout = "none"
    config.prompt.option_style = "code"
    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.objective.anchor_normalizer = "vocabulary"
    return config.lock()
