"""The values in the files that the authors of ACE-Align released, read and checked.

Errors say what is wrong; where it is, the readers add.
"""

import json
import math
import re
from typing import Any

from ace_jax.errors import InputError
from ace_jax.survey.codebook import COUNTRY

COUNTRIES = {
    "australia": "AUS",
    "chile": "CHL",
    "egypt": "EGY",
    "ethiopia": "ETH",
    "germany": "DEU",
    "great_britain": "GBR",
    "india": "IND",
    "japan": "JPN",
    "mexico": "MEX",
    "new_zealand": "NZL",
    "nigeria": "NGA",
    "philippines": "PHL",
    "russia": "RUS",
    "united_states": "USA",
}
# The files' spelling of the levels of `personas.ATTRIBUTES`.
LEVELS = {
    "gender": {"Male": "Male", "Female": "Female"},
    "education": {"College": "College Educated", "No_College": "Not College Educated"},
    "residence": {"Urban": "Urban", "Rural": "Rural"},
    "marital_status": {"Married": "Married", "Not_Married": "Not Married"},
}
PLACEHOLDER = re.compile(r"\[\s*country\s*(['\u2019]s)?\s*\]", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
LARGEST = 10**18  # whole numbers are kept in 64 bits
KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
SUM_TOLERANCE = 1e-3

Labels = tuple[str, ...]
Persona = tuple[str | None, ...]


def parse_json(content: bytes, where: str) -> Any:
    """Reads JSON in UTF-8; raises InputError that says `where` if it is anything else."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(f"{where} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); correct it or take it out") from None


def field(record: Any, key: str, kind: type | None = None) -> Any:
    """Returns what an object has under a key; raises InputError if that is not of its kind."""
    if not isinstance(record, dict):
        raise InputError(f"{record!r:.40} is not an object; give one with the release's keys")
    if key not in record:
        raise InputError(f"the key {key} is missing; add it")
    if kind is not None and not isinstance(record[key], kind):
        raise InputError(f"{key} is {record[key]!r:.40}; give {KINDS[kind]}")
    if kind is str:
        check_whole(record[key], key)
    return record[key]


def check_whole(text: str, what: str) -> None:
    """Raises InputError for a text with half a character, as JSON can spell but UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} has half a character (a surrogate); correct it") from None


def whole_number(value: Any, what: str) -> int:
    """Returns a whole number that is written as one, as text, or with a decimal point."""
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < LARGEST
        and value % 1 == 0
    ):
        return int(value)
    raise InputError(f"{what} is {value!r:.40}; give a whole number")


def option_numbers(options: list[Any]) -> Labels:
    """Returns the options' numbers as bare texts, in their order; there are two or more."""
    labels = tuple(str(whole_number(option, "an option")) for option in options)
    if len(labels) < 2:
        raise InputError(f"options has {len(labels)}; give two or more")
    if len(set(labels)) < len(labels):
        raise InputError(f"options repeats one ({', '.join(labels)}); give each once")
    return labels


def shares(p_real: dict[str, Any], options: Labels) -> tuple[float, ...]:
    """Returns the probability of each option, absent ones 0: they sum to 1, or all are 0.

    Probabilities that sum to 1 within 1e-3 are divided by their sum. Raises InputError for any
    other sum, a key that is no option, and what is negative, not finite or not a number.
    """
    if unknown := sorted(p_real.keys() - set(options)):
        raise InputError(
            f"p_real has {unknown[0]!r:.40}, which is not among the options; remove it"
        )
    given = [p_real.get(option, 0.0) for option in options]
    for option, share in zip(options, given, strict=True):
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not (number and 0 <= share < LARGEST):
            raise InputError(
                f"p_real gives option {option} the probability {share!r:.40}; "
                "give a number from 0 to 1"
            )
    total = math.fsum(given)
    if total == 0:
        return (0.0,) * len(options)
    if abs(total - 1) > SUM_TOLERANCE:
        raise InputError(f"p_real sums to {total:.6g}; give probabilities that sum to 1")
    return tuple(share / total for share in given)


def persona_of(demographics: dict[str, Any]) -> Persona:
    """Returns the level of each of `personas.ATTRIBUTES`, None where it is not named."""
    if unknown := sorted(demographics.keys() - {*LEVELS, "country"}):
        raise InputError(
            f"demographics has {unknown[0]!r:.40}, which is none of {', '.join(LEVELS)}; remove it"
        )
    persona: list[str | None] = []
    for attribute, levels in LEVELS.items():
        spelt = demographics.get(attribute)
        if spelt is not None and str(spelt) not in levels:
            raise InputError(f"{attribute} is {spelt!r:.40}; give {' or '.join(levels)}")
        persona.append(None if spelt is None else levels[spelt])
    return tuple(persona)


def with_placeholder(text: str) -> str:
    """Returns the text with the files' spellings of the country's placeholder made one."""
    return PLACEHOLDER.sub(lambda found: COUNTRY + ("'s" if found[1] else ""), text.strip())


def alpha3(name: str) -> str:
    """Returns the code of a country named in words or as a slug; others as they are."""
    return COUNTRIES.get(name.strip().lower().replace(" ", "_"), name)
