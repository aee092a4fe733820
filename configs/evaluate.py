"""Scores a model, with or without an adapter, on the cells that training did not see.

    python -m ace_jax.evaluate --adapter runs/quickstart/train/adapter --workdir runs/trained
    python -m ace_jax.evaluate --config configs/evaluate.py:quickstart --workdir runs/base

The name after the colon is the experiment whose model, survey, hold-out, prompt and seed are taken:
`ace` if there is none; `quickstart:smoke` is a variant of one, `methods:joint` a method. With
`record`, the default where only --adapter is given, all of these are None: the adapter says them.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(experiment: str = "ace") -> ConfigDict:
    recorded = experiment == "record"
    name, *variant = ["ace"] if recorded else experiment.split(":")
    trained = runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"](*variant)

    config = ConfigDict()
    for field in ("seed", "model", "data", "prompt", "mesh", "distributed"):
        config[field] = trained[field]
    config.unlock()
    if recorded:
        config.seed = placeholder(int)
        for section in ("model", "data", "prompt"):
            for field in config[section]:
                config[section][field] = placeholder(config[section].get_type(field))
    config.data.granularity = placeholder(int)  # attributes that cells scored name; None: any
    config.data.split = "held_out"  # or "train", or "all"

    config.adapter = ConfigDict()
    config.adapter.path = placeholder(str)  # a PEFT directory; None: the base model

    config.batch = ConfigDict()
    config.batch.size = 80  # cells that share a trie: all personas of a question
    config.batch.row_lengths = trained.batch.row_lengths
    return config.lock()
