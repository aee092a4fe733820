"""How an adapter is trained: the typed sections of a config, and where configs are found.

A config file is the one home of every value. `Recipe.of` reads and checks it, so that a mistake is
found before anything is loaded.
"""

import math
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ace_jax.errors import InputError, check_in, check_known, check_positive
from ace_jax.losses import Anchor
from ace_jax.model.lora import LoRAConfig

PACKAGE = Path(__file__).parent
PAIR_WEIGHTS = ("none", "precision", "toggle")
TOGGLES = (("attributes",), ("attributes", "country"))
UNITS = ("pair", "context", "question")
SCHEDULES = ("constant", "cosine", "linear")

# Trie nodes a row: multiples of 32, from 256 on each at most an eighth longer than the one before.
ROW_LENGTHS = (
    *range(32, 512, 32),
    *range(512, 1024, 64),
    *range(1024, 2048, 128),
    *range(2048, 4096, 256),
    *range(4096, 16385, 512),
)


@dataclass(frozen=True)
class Stage:
    """Some epochs with fixed weights of the two losses (Eq. 14)."""

    alpha: float
    beta: float
    epochs: int

    @classmethod
    def of(cls, stage: Any) -> "Stage":
        """Reads (alpha, beta, epochs); raises `ValueError` unless it is a stage."""
        match stage:
            case int() | float() as alpha, int() | float() as beta, int() as epochs:
                if min(alpha, beta) >= 0 and 0 < alpha + beta < math.inf and epochs >= 1:
                    return cls(float(alpha), float(beta), epochs)
        raise ValueError(stage)


@dataclass(frozen=True)
class Objective:
    """What training minimises; fields as in `config.objective`."""

    stages: tuple[Stage, ...]
    anchor: Anchor
    pair_weight: str
    toggles: tuple[str, ...] = ("attributes",)

    @classmethod
    def of(cls, section: ConfigDict) -> "Objective":
        """Reads the section; raises `InputError` for values that are not known."""
        stages, weight = section["stages"], section["pair_weight"]
        try:
            read = tuple(map(Stage.of, stages))
        except ValueError:
            read = ()
        if not read:
            raise InputError(
                f"objective.stages: {stages} is not a sequence of (alpha, beta, epochs), each with "
                "finite weights >= 0, not both 0, and a whole number of epochs >= 1"
            )
        check_known(weight, PAIR_WEIGHTS, "objective.pair_weight")
        toggles = tuple(section["toggles"])
        if toggles not in TOGGLES:
            raise InputError(
                f"objective.toggles: {toggles} is not {' or '.join(map(str, TOGGLES))}"
            )
        anchor = Anchor.of(section["anchor"], section["anchor_normalizer"])
        return cls(read, anchor, weight, toggles)


@dataclass(frozen=True)
class Optimizer:
    """AdamW; fields as in `config.optimizer`."""

    learning_rate: float
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    grad_clip: float | None = None
    accumulation: int = 1
    reset_between_stages: bool = False

    def __post_init__(self) -> None:
        check_positive("optimizer.accumulation", self.accumulation)
        check_known(self.schedule, SCHEDULES, "optimizer.schedule")
        check_in("(0, inf)", optimizer__learning_rate=self.learning_rate, optimizer__eps=self.eps)
        check_in("(0, inf)", optimizer__grad_clip=self.grad_clip)
        check_in("[0, inf)", optimizer__weight_decay=self.weight_decay)
        check_in("[0, 1)", optimizer__b1=self.b1, optimizer__b2=self.b2)
        check_in("[0, inf)", optimizer__warmup=self.warmup)
        if self.is_scheduled and self.reset_between_stages:
            raise InputError(
                "optimizer.reset_between_stages: would start the schedule anew in each stage; use "
                "optimizer.schedule=constant with optimizer.warmup=0, or leave it out"
            )

    @property
    def is_scheduled(self) -> bool:
        """Whether the learning rate changes."""
        return self.schedule != "constant" or self.warmup > 0


@dataclass(frozen=True)
class Batch:
    """What a step sees; fields as in `config.batch`."""

    unit: str
    size: int
    neighbours: int
    row_lengths: tuple[int, ...]
    countries: int = 12

    def __post_init__(self) -> None:
        check_known(self.unit, UNITS, "batch.unit")
        for field in ("size", "neighbours", "countries"):
            check_positive(f"batch.{field}", getattr(self, field))
        if self.neighbours > 1 and self.unit != "context":
            raise InputError(
                "batch.neighbours: counts contexts; set batch.unit=context, or it to 1"
            )
        if self.size % self.neighbours:
            raise InputError(
                f"batch.size: {self.size} is no multiple of batch.neighbours {self.neighbours}"
            )


@dataclass(frozen=True)
class Validation:
    """When held-out pairs are scored during training, and what for.

    Attributes:
      every_steps: steps between two validations, besides the ends of stages; None: never.
      pairs: how many are scored at most.
      select_best: export the best adapter instead of the last.
      patience: validations without gain after which the last stage ends; None: never.
    """

    every_steps: int | None
    pairs: int
    select_best: bool
    patience: int | None

    def __post_init__(self) -> None:
        for field in ("every_steps", "pairs", "patience"):
            if (number := getattr(self, field)) is not None:
                check_positive(f"validation.{field}", number)
        for field in ("select_best", "patience"):
            if getattr(self, field) and self.every_steps is None:
                raise InputError(f"validation.{field}: needs validation.every_steps")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an adapter learns from given pairs.

    Attributes:
      lora: shape of the adapter.
      init_from: adapter that training starts from; None: a fresh one.
      objective: losses and stages.
      optimizer: AdamW.
      batch: what a step sees.
      validation: held-out pairs scored on the way.
      min_n: respondents that both cells of a pair have at least.
      shuffle: whether each epoch has its own order.
      granularity: how many attributes the cells trained on name; None: all.
    """

    lora: LoRAConfig
    init_from: str | None
    objective: Objective
    optimizer: Optimizer
    batch: Batch
    validation: Validation
    min_n: int
    shuffle: bool
    granularity: int | None = None

    def __post_init__(self) -> None:
        check_in("(0, inf)", lora__alpha=float(self.lora.alpha))
        if "country" in self.objective.toggles and self.batch.unit == "context":
            raise InputError(
                "objective.toggles: a context has one country; set batch.unit=question (or pair)"
            )

    @classmethod
    def of(cls, config: ConfigDict, lora: LoRAConfig) -> "Recipe":
        """Reads the sections of a config.

        Args:
          config: of `train`.
          lora: the adapter's shape (`model.formats.peft.adapter_config`).

        Raises:
          InputError: a value that is not known or cannot be.
        """
        return cls(
            lora=lora,
            init_from=config.lora.init_from,
            objective=Objective.of(config.objective),
            optimizer=Optimizer(**config.optimizer),
            batch=Batch(**config.batch),
            validation=Validation(**config.validation),
            min_n=config.data.min_n,
            shuffle=config.data.shuffle,
            granularity=config.data.granularity,
        )

    def described(self) -> str:
        """Returns the recipe in one line, for a model card."""
        stages = "; ".join(
            f"{stage.epochs} epoch(s) with alpha {stage.alpha:g}, beta {stage.beta:g}"
            for stage in self.objective.stages
        )
        rate = self.optimizer.learning_rate
        toggles = " and ".join(self.objective.toggles)
        return (
            f"{stages} (anchor {self.objective.anchor.kind}, toggles {toggles}); "
            f"learning rate {rate:g}"
        )


def find_config(name: str) -> str:
    """Returns the path of a config, `FILE[:VARIANT]`.

    A file that is not there is looked up among those that come with the package: `ace`, `ace.py`
    and `configs/ace.py` are the same one. Raises `InputError` if there is none.
    """
    file, colon, variant = name.partition(":")
    path = Path(file)
    if not path.is_file():
        directory = _bundled()
        path = directory / f"{Path(file).stem}.py"
        if not path.is_file() or Path(file).parent not in (Path("."), Path("configs")):
            known = ", ".join(sorted(each.stem for each in directory.glob("*.py")))
            raise InputError(f"--config: there is no file {file}; with the package come {known}")
    return f"{path}{colon}{variant}"


def load_config(name: str) -> ConfigDict:
    """Returns the config that `find_config` finds."""
    file, _, variant = find_config(name).partition(":")
    made = runpy.run_path(file)["get_config"]
    try:
        return made(*([variant] if variant else []))
    except ValueError as error:
        raise InputError(str(error)) from None


def _bundled() -> Path:
    """The configs in the wheel, or those of the repository that the package runs from."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"
