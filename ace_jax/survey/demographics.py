"""By what names and labels surveys call an attribute: `builtin/demographics.toml`."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from ace_jax.survey.codebook_file import BUILTIN

# A label of a few words is a demographic column's; a longer one is a question about sex or age.
MOST_WORDS = 6
NOT_THEIRS = re.compile(
    r"(?i)\b(partner|spouse|wife|husband|father|mother|parent|interview\w*|child\w*|household"
    r"|rights?|years?)\b"
)


@dataclass(frozen=True)
class Demographic:
    """An entry of the file, where its keys are explained."""

    name: str
    label: str
    levels: Sequence[str] = ()
    first: str = ""
    second: str = ""
    without: str = "(?!)"

    def is_second(self, label: str) -> bool:
        """Whether a code's label is one of the second level."""
        text = re.sub(self.without, "", label, flags=re.IGNORECASE)
        found = re.search(rf"(?i)\b({self.first or self.second})\b", text)
        return (found is None) == bool(self.first)

    def looks_like(self, name: str, label: str) -> int:
        """Returns 2 if a column's name is one of the attribute's, 1 if its label is, and else 0."""
        if NOT_THEIRS.search(label):
            return 0
        if re.fullmatch(self.name.replace("{label}", self.label), name, re.IGNORECASE):
            return 2
        is_short = len(label.split()) <= MOST_WORDS
        return int(is_short and re.search(rf"(?i)\b({self.label})\b", label) is not None)


DEMOGRAPHICS = {
    name: Demographic(**entry)
    for name, entry in tomllib.loads(
        (BUILTIN / "demographics.toml").read_text(encoding="utf-8")
    ).items()
}
