"""By what names and labels surveys call an attribute, in several languages."""

import re
from collections.abc import Callable

import pycountry

_GENDER = r"sex[eo]?|gender|geschlecht|g[eé]nero|sesso|k[oö]n|kj[oø]nn|p[lł]e[cć]|пол|性别|性別"
_AGE = r"age|alter|edad|idade|et[aà]|[aâ]ge|wiek|ålder|alder|возраст|年龄|年齢"
# A column's whole name, and a word in its label.
NAMES = {
    "gender": (rf"(resp_?)?({_GENDER}|gndr|fe?male|woman)\d?", _GENDER),
    "age": (rf"{_AGE}|agea|ager", _AGE),
    "education": (
        r"(educ\w*|edu|edulvl\w*|degree|e?isced\w*|bildung|schulab\w*|dipl[oô]me|escolaridade?"
        r"|istruzione|utbildning|utdanning|wykszta[lł]cenie|образование|学历|学歴)\d?",
        r"education|educational|degree|bildung|dipl[oô]me|educaci[oó]n|educa[cç][aã]o|escolaridade?"
        r"|istruzione|utbildning|utdanning|wykszta[lł]cenie|образование|学历|学歴",
    ),
    "residence": (
        r"(urban\w*|urb?rur\w*|rural|domicil|residence|stadt_?land|wohnort\w*|h[aá]bitat)\d?",
        r"urban|rural|h[aá]bitat|stadt|domicile",
    ),
    "marital_status": (
        r"(marital\w*|marstat|maritst|famstand|familienstand|estado_?civil|[eé]tat_?civil"
        r"|stato_?civile|civilst\w*)",
        r"marital|familienstand|estado civil|[eé]tat civil|stato civile|civilst\w*",
    ),
    "region": (
        r"(c?region|regi[oó]n|r[eé]gion|bundesland|prov(ince|incia)?|regione|oblast)",
        r"region|bundesland|province|provincia",
    ),
    "country": (
        r"(b_country_alpha|country\w*|cntry|c_alphan|iso3?|land|pays|pa[ií]s|paese|nation)",
        r"country",
    ),
}
# A label of a few words is a demographic column's; a longer one is a question about sex or age.
MOST_WORDS = 6
NOT_THEIRS = re.compile(
    r"(?i)\b(partner|spouse|wife|husband|father|mother|parent|interview\w*|child\w*|household"
    r"|rights?|years?)\b"
)

Words = Callable[[str], bool]


def _words(pattern: str, without: str | None = None) -> Words:
    found, taken_out = re.compile(pattern, re.IGNORECASE), re.compile(without or r"(?!)", re.I)
    return lambda text: found.search(taken_out.sub("", text)) is not None


FEMALE = _words(
    r"\b(f|w|female|wom[ae]n|frau|weiblich|femme|f[eé]minin\w*|femenin\w*|mujer|mulher|donna"
    r"|femmina|kvinn[ae]|kobieta|женск\w*|女)\b"
)
TERTIARY = _words(
    r"\b(tertiary|bachelor|master'?s?|doctor\w*|ph\.?d|college grad\w*|college degree"
    r"|univers\w*|hochschul\w*|post[- ]?grad\w*|licenciatura|sup[eé]rieur\w*|superior|graduate)\b",
    r"(some|incomplete|without|no|non|not|high school|secondary|primary)[- ](university|college|"
    r"tertiary|degree|grad\w*)|univers\w* entrance",
)
RURAL = _words(r"\b(rural|village|farm\w*|countryside|open country|dorf|campo|aldea|wiejsk\w*)\b")
MARRIED = _words(
    r"\b(married|verheiratet|mari[eé]e?|casad[oa]|coniugat[oa]|sposat[oa]|gift|[zż]onat\w*|已婚)\b",
    r"(never|not|un|no longer)[- ]?(been )?married|married,? (but )?separated|living as married",
)
# An attribute's levels, and which labels are of the second.
PROPOSED: dict[str, tuple[Words, tuple[str, ...]]] = {
    "gender": (FEMALE, ("Male", "Female")),
    "age": (lambda label: False, ()),
    "education": (
        lambda label: not TERTIARY(label),
        ("College Educated", "Not College Educated"),
    ),
    "residence": (RURAL, ("Urban", "Rural")),
    "marital_status": (lambda label: not MARRIED(label), ("Married", "Not Married")),
    "region": (lambda label: False, ()),
}


def looks_like(attribute: str, name: str, label: str) -> int:
    """Returns 2 if a column's name is one of the attribute's, 1 if its label is, and else 0."""
    names, words = NAMES[attribute]
    if NOT_THEIRS.search(label):
        return 0
    if re.fullmatch(names, name, re.IGNORECASE):
        return 2
    is_short = len(label.split()) <= MOST_WORDS
    return int(is_short and re.search(rf"(?i)\b({words})\b", label) is not None)


def country_of(text: str) -> str | None:
    """Returns the alpha-3 code of a country's code of two or three letters, or of its name."""
    try:
        return None if text.isdigit() else str(pycountry.countries.lookup(text).alpha_3)
    except LookupError:
        return None
