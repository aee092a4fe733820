"""The same job on a laptop: SmolLM2-135M-Instruct on the embedded General Social Survey 2018.

    python -m ace_jax.train --config configs/quickstart.py --workdir runs/quickstart/train

`configs/quickstart.py:smoke` goes the same way in a few steps.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

PAPER = runpy.run_path(str(Path(__file__).with_name("ace.py")))


def get_config(variant: str = "") -> ConfigDict:
    config = PAPER["get_config"]().unlock()
    config.model.path = "smollm2-135m-instruct"
    config.model.dtype = "float32"
    config.data.path = "gss2018"
    config.data.holdout = "question:0.3"
    config.prompt.template = "question_first"
    config.optimizer.learning_rate = 3e-4
    config.objective.stages = ((1.0, 0.0, 3), (0.0, 1.0, 3))
    config.batch.unit = "context"
    config.batch.size = 1
    config.checkpoint.every_steps = 50
    if variant == "smoke":
        config.objective.stages = ((1.0, 0.0, 1), (0.0, 1.0, 1))
        config.data.questions = ("natspac", "natenvir", "natheal", "nateduc")
    elif variant:
        raise ValueError(f"configs/quickstart.py has no variant {variant!r}; there is: smoke")
    return config.lock()
