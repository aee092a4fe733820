"""Countries told apart: 12 countries of the European Quality of Life Survey 2011 (EQLS).

    python -m ace_jax.train --config configs/eqls.py --workdir runs/eqls/run
    for part in train held_out; do
      python -m ace_jax.evaluate --adapter runs/eqls/run/adapter --workdir runs/eqls/$part \
        --config.data.split=$part --config.data.granularity=1
    done

Pairs toggle the country too, and cells name one attribute, so that a step of 24 cells holds all 12
countries. All else is the recipe `joint`, for ten epochs. Five questions are held out, and the
other 21 countries.
`configs/eqls.py:kl` is the same without the effect loss (the recipe `kl` has another rate).
`:fold1` to `:fold5` hold out other questions: every question is in one of the five.
launch/results_eqls.sh runs the study.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

METHODS = runpy.run_path(str(Path(__file__).with_name("methods.py")))
UNSEEN = "AUT BEL CYP CZE EST FIN HRV HUN IRL ISL LTU LUX LVA MKD MLT MNE PRT ROU SRB SVK SVN"
FOLDS = {f"fold{number}": f"fold:{number}/5@7" for number in range(1, 6)}
VARIANTS = ("", "kl", *FOLDS)


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/eqls.py has no variant {variant!r}; there are: {', '.join(VARIANTS[1:])}"
        )
    config = METHODS["get_config"]("joint").unlock()
    config.data.path = "eqls2011"
    questions = FOLDS.get(variant, "question:0.2@7")
    config.data.holdout = f"{questions},country:{UNSEEN.replace(' ', '+')}"
    config.data.granularity = 1
    config.objective.stages = ((1.0, 0.0 if variant == "kl" else 20.0, 10),)
    config.objective.toggles = ("attributes", "country")
    config.batch.unit = "question"
    return config.lock()
