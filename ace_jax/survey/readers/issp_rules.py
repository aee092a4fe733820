"""The modules and attributes of the International Social Survey Programme."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ace_jax.survey.codebook import Code, Recode, Threshold
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.readers.value_labels import Labels, Ranges, is_missing


@dataclass(frozen=True)
class Module:
    """A module: its study number in the archive, the year it is named after, and its topic."""

    study: int
    year: int
    topic: str

    @property
    def name(self) -> str:
        """The prefix of the ids of its questions."""
        return f"issp{self.year}"


MODULES = (
    Module(5500, 2010, "Environment"),
    Module(5800, 2011, "Health"),
    Module(5900, 2012, "Family"),
    Module(5950, 2013, "National Identity"),
    Module(6670, 2014, "Citizenship"),
    Module(6770, 2015, "Work Orientations"),
    Module(6900, 2016, "Role of Government"),
    Module(6980, 2017, "Social Networks"),
    Module(7570, 2018, "Religion"),
    Module(7600, 2019, "Social Inequality"),
    Module(7650, 2020, "Environment"),
    Module(8000, 2021, "Health"),
)

GENDER, EDUCATION, RESIDENCE, MARITAL_STATUS = ATTRIBUTES
SEX: Mapping[Code, str] = {1: "Male", 2: "Female"}
# 1 married, 2 civil partnership, 3 separated, 4 divorced, 5 widowed, 6 never.
MARITAL: Mapping[Code, str] = {
    code: "Married" if code == 1 else "Not Married" for code in range(1, 7)
}
RECODES = (
    Recode(GENDER, "SEX", SEX, ()),
    # 5 lower level tertiary, 6 upper level tertiary.
    Recode(EDUCATION, "DEGREE", Threshold("college", 5, "College Educated"), ()),
    # 1 big city, 2 its suburbs, 3 town or small city, 4 country village, 5 farm.
    Recode(RESIDENCE, "URBRURAL", Threshold("rural", 4, "Rural"), ()),
    Recode(MARITAL_STATUS, "MARITAL", MARITAL, ()),
)
# The codes that have a level; no other one has.
LEVEL_CODES: Mapping[str, range] = {
    "SEX": range(1, 3),
    "DEGREE": range(7),
    "URBRURAL": range(1, 6),
    "MARITAL": range(1, 7),
}

NOT_TERTIARY = re.compile(r"(non|not)[- ]?tertiary")
TERTIARY = re.compile(r"tertiary|bachelor")
UPPER_TERTIARY = re.compile(r"upper[ -](level )?tertiary|post[ -]?tertiary|master|doctor|ph\.?d")


def level(recode: Recode, code: int | float) -> str:
    """Returns the attribute's level of a code that has one."""
    if not isinstance(recode.by, Threshold):
        return recode.by[code]
    other = next(name for name in recode.attribute.levels if name != recode.by.level)
    return recode.by.level if code >= recode.by.at_least else other


def degrees(labels: Labels, ranges: Ranges) -> dict[Code, int]:
    """Returns DEGREE's code for each of EDULEVEL's (in 2020 and 2021), as their labels say.

    6 for what the label calls upper or post-tertiary, master or doctoral; 5 for other tertiary
    education (short-cycle, bachelor); the code itself for what is below tertiary. A code that is
    none of these, or is no answer, is left out.
    """
    found: dict[Code, int] = {}
    for code, label in labels.items():
        if isinstance(code, str) or is_missing(code, labels, ranges):
            continue
        plain = NOT_TERTIARY.sub("", label.casefold())
        if UPPER_TERTIARY.search(plain):
            found[code] = 6
        elif TERTIARY.search(plain):
            found[code] = 5
        elif code < 5:
            found[code] = int(code)
    return found
