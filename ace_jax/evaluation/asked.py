"""Answers to new questions, as tables: by persona and option, by toggle, and how sure they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import pandas as pd

from ace_jax.evaluation.answers import Answers, mean_of

EFFECTS = {"p": "effect", "p_reversed": "effect_reversed"}


@dataclass(frozen=True)
class Asked:
    """Prompts and their answers.

    Attributes:
      who: a row a prompt: country, the attributes (None where not named) and question_id.
      options: texts of each prompt's options, in order.
      listings: the answers by the order of options: whether the last is listed first.
    """

    who: pd.DataFrame
    options: list[tuple[str, ...]]
    listings: Mapping[bool, Answers]

    def table(self, answers: Answers) -> pd.DataFrame:
        """Returns a row a prompt and option: who, option, p and option_mass."""
        many = [len(texts) for texts in self.options]
        table = self.who.loc[self.who.index.repeat(many)].reset_index(drop=True)
        table = table.assign(
            option=list(chain(*self.options)),
            p=np.concatenate(answers.p),
            option_mass=np.repeat(answers.option_mass, many),
        )
        return table[[*self.who, "option", "p", "option_mass"]]


def answers_table(runs: Sequence[Asked], listings: Sequence[bool]) -> pd.DataFrame:
    """Returns the answers of one model, or of several that differ in their seed only.

    Columns are those of `Asked.table`, with p and option_mass the mean over the models and over
    `listings`, the orders that the model's style asks. p_reversed is the mean over the models with
    the last option listed first. p_low and p_high are the lowest and the highest of all models and
    both orders: a range, not a confidence interval.
    """
    table = runs[0].table(mean_of([run.listings[key] for run in runs for key in listings]))
    each = np.array([run.table(run.listings[key])["p"] for run in runs for key in run.listings])
    turned = runs[0].table(mean_of([run.listings[True] for run in runs]))
    found = table.assign(p_reversed=turned["p"], p_low=each.min(axis=0), p_high=each.max(axis=0))
    return found[[*table.columns.drop("option_mass"), *found.columns[-3:], "option_mass"]]


def shifts_table(answers: pd.DataFrame, attribute: str, levels: Sequence[str]) -> pd.DataFrame:
    """Returns how answers shift between every two levels of an attribute.

    `answers` has the columns of `Asked.table`. A persona counts where it is there with both levels.

    Returns:
      Columns that say who answers what, without the attribute; attribute, from_level, to_level,
      option, effect (p at to_level less p at from_level), effect_reversed (that of p_reversed, if
      it is there: a sign of its own tells that the order of options decides), cumulative_effect
      (the effects' sum up to the option) and mean_effect (shift of the mean option, from 1).
    """
    measured = ("option", "p", "option_mass", "p_reversed", "p_low", "p_high")
    who = [name for name in answers if name not in (attribute, *measured)]
    named = {share: effect for share, effect in EFFECTS.items() if share in answers}
    # Whoever is there twice counts once.
    rows = answers.drop_duplicates([*who, attribute, "option"])
    tables = []
    for before, after in combinations(levels, 2):
        one, two = (rows[rows[attribute] == level] for level in (before, after))
        both = one.merge(
            two[[*who, "option", *named]], on=[*who, "option"], suffixes=("", " after")
        )
        for share, effect in named.items():
            both[effect] = both[f"{share} after"] - both[share]
        tables.append(both.assign(attribute=attribute, from_level=before, to_level=after))
    table = pd.concat(tables, ignore_index=True)
    group = [*who, "attribute", "from_level", "to_level"]
    by = table.groupby(group, dropna=False, sort=False)
    place = by.cumcount() + 1
    table["cumulative_effect"] = by["effect"].cumsum()
    keys = [table[name] for name in group]
    moved = (table["effect"] * place).groupby(keys, dropna=False, sort=False)
    table["mean_effect"] = moved.transform("sum")
    return table[[*group, "option", *named.values(), "cumulative_effect", "mean_effect"]]
