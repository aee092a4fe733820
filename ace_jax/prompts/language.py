"""In which language a country is asked: the codebook's words, and names of countries by CLDR.

The codebook's own `text` and `levels` count as English ("en").
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from ace_jax.errors import InputError
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.personas import alpha_3, country_names

ENGLISH = "en"
OF_COUNTRY = "country"  # each country is asked in a language of its own


class Wording(NamedTuple):
    """A survey in one language: `text` and `options` by question_id, levels by attribute."""

    language: str
    questions: Mapping[str, Mapping[str, Any]]
    levels: Mapping[str, Mapping[str, str]]


def wordings(dataset: Dataset, language: str, countries: Iterable[str]) -> dict[str, Wording]:
    """Returns the words in which each country (alpha-3) is asked under `prompt.language`.

    `country` is the first language of the country (official ones, by speakers) that the survey has.
    Raises InputError where a question, an attribute or a country has no words in the language.
    """
    if language != OF_COUNTRY:
        return dict.fromkeys(countries, _wording(dataset, language))
    from babel.languages import get_official_languages  # most prompts need none of it

    has = {}
    for one in (ENGLISH, *dataset.manifest.get("languages", ())):
        try:
            has[one] = _wording(dataset, one)
        except InputError:  # an unfinished translation is none
            continue
    found = {}
    for country in countries:
        its = get_official_languages(_alpha_2(country), regional=True, de_facto=True)
        if not (spoken := [one for one in its if one in has]):
            raise InputError(
                f"prompt.language: all questions are in {', '.join(has)}, and {country} speaks "
                f"{', '.join(its) or 'none that CLDR knows'}; give one of its languages in the "
                "codebook, or leave the country out"
            )
        found[country] = has[spoken[0]]
    return found


def _wording(dataset: Dataset, language: str) -> Wording:
    said = dataset.manifest.get("languages", {}).get(language, {})
    rows, attributes = dataset.questions.to_dict("records"), dataset.attributes
    if language == ENGLISH:
        texts = {of["question_id"]: of | {"options": of["option_labels"]} for of in rows}
        said = {"questions": texts, "attributes": {one.name: one.levels for one in attributes}}
    needed = {"question": [row["question_id"] for row in rows]}
    needed["attribute"] = [one.name for one in attributes]
    for what, names in needed.items():
        if lacking := [name for name in names if name not in said.get(f"{what}s", ())]:
            raise InputError(
                f"prompt.language: {what} {lacking[0]} has no words in {language} ({len(lacking)} "
                f"of {len(names)} {what}s); give in.{language} in the codebook and prepare the "
                "survey again, or set another language"
            )
    levels = {
        one.name: dict(zip(one.levels, said["attributes"][one.name], strict=True))
        for one in attributes
    }
    return Wording(language, said["questions"], levels)


@cache
def country_name(code: str, language: str = ENGLISH) -> str:
    """Returns the name of an ISO 3166-1 alpha-3 code, or the code where English has none.

    Raises InputError where another language has none.
    """
    if language == ENGLISH:
        return country_names().get(code, code)
    import babel

    try:
        return str(babel.Locale.parse(language).territories[_alpha_2(code)])
    except (ValueError, LookupError, babel.UnknownLocaleError):
        raise InputError(
            f"prompt.language: CLDR has no name of {code} in {language}; leave the country out"
        ) from None


def _alpha_2(code: str) -> str:
    return next((two for two, three in alpha_3().items() if three == code and two != code), code)
