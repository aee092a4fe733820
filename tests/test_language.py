"""Prompts in the language of a country: what codebooks say, and what is refused by name."""

import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.experiment import Prompt
from ace_jax.prompts.encode import PromptStyle, render, render_cells
from ace_jax.prompts.language import country_name
from ace_jax.prompts.template import PromptTemplate
from ace_jax.survey.build import build
from ace_jax.survey.codebook_file import read_codebook
from ace_jax.survey.readers.tables import Raw

CODEBOOK = """
source = "mine"
citation = "Us, 2020."
country_column = "land"

[[attributes]]
name = "gender"
column = "sex"
levels = ["Male", "Female"]
codes = [[1], [2]]
in.de.levels = ["Mann", "Frau"]
in.fr.levels = ["Homme", "Femme"]

[scales]
worth_de = [[1, "Sehr in [COUNTRY]"], [2, "Nicht"]]

[[questions]]
column = "q1"
topic = "Work"
text = "Is work important in [COUNTRY]?"
options = [[1, "Very, in [COUNTRY]"], [2, "Not"]]
reverse = true
in.de.text = "Ist Arbeit in [COUNTRY] wichtig?"
in.de.options = "worth_de"

[[questions]]
column = "q2"
topic = "Work"
text = "Is leisure?"
options = [["y", "Yes"], ["n", "No"]]
in.de.text = "Ist Freizeit wichtig?"
in.de.options = [["n", "Nein"], ["y", "Ja"]]
in.fr.text = "Les loisirs ?"
in.fr.options = [["y", "Oui"], ["n", "Non"]]
"""
BILINGUAL = (
    "{# language: en de -#}\n{% if prompt_language == 'de' %}Jemand aus{% else %}One of{% endif %}"
    " {{ country }}, {{ gender }}: {{ question }} {% for o in options %}{{ o.line }}; {% endfor %}"
)


def dataset(tmp_path, text=CODEBOOK, lands=("DEU", "CHE", "USA")):
    path, file = tmp_path / "own.toml", tmp_path / "own.csv"
    path.write_text(text, encoding="utf-8")
    file.write_text("-")
    rows = [{"land": land, "sex": sex, "q1": 1, "q2": "y"} for land in lands for sex in (1, 2)]
    return build(Raw(pd.DataFrame(rows), read_codebook(path)), [file], {})


def asked(survey, language, source=BILINGUAL):
    style = PromptStyle(PromptTemplate.of_source("own.j2", source), language=language)
    cells = survey.cells[survey.cells["gender"] == "Female"].sort_values(["country", "question_id"])
    return [prompt.text.strip() for prompt in render_cells(cells, survey, style)]


def test_each_country_is_asked_in_its_own_language(tmp_path):
    survey = dataset(tmp_path)
    assert asked(survey, "country") == [
        "Jemand aus Schweiz, Frau: Ist Arbeit in Schweiz wichtig? 1. Nicht; 2. Sehr in Schweiz;",
        "Jemand aus Schweiz, Frau: Ist Freizeit wichtig? 1. Ja; 2. Nein;",
        "Jemand aus Deutschland, Frau: Ist Arbeit in Deutschland wichtig? 1. Nicht; "
        "2. Sehr in Deutschland;",
        "Jemand aus Deutschland, Frau: Ist Freizeit wichtig? 1. Ja; 2. Nein;",
        "One of United States, Female: Is work important in United States? 1. Not; "
        "2. Very, in United States;",
        "One of United States, Female: Is leisure? 1. Yes; 2. No;",
    ]
    assert asked(survey, "de")[-1].startswith("Jemand aus Vereinigte Staaten, Frau")
    assert asked(survey, "en")[0].startswith("One of Switzerland, Female: Is work")


def test_the_words_belong_to_the_survey_and_the_language_to_the_record(tmp_path):
    survey = dataset(tmp_path)
    assert survey.digest != dataset(tmp_path, CODEBOOK.replace("Ja", "Jawohl")).digest
    style = PromptStyle(PromptTemplate.of_source("own.j2", BILINGUAL), language="de")
    assert Prompt.of(style).style().language == "de"
    assert "in de" in Prompt.of(style).described()


@pytest.mark.parametrize(
    ("language", "source", "message"),
    [
        ("fr", BILINGUAL, r"question q1 has no words in fr \(1 of 2 questions\); give in\.fr"),
        ("xx", BILINGUAL, r"question q1 has no words in xx \(2 of 2"),
        ("de", "{{ question }}", r"own\.j2 is in en, and prompt\.language asks for de; .*language"),
        ("en", "{# language: de -#}{{ question }}", r"own\.j2 is in de, and .* asks for en"),
    ],
)
def test_a_language_that_is_not_there_is_refused_by_name(tmp_path, language, source, message):
    with pytest.raises(InputError, match=message):
        asked(dataset(tmp_path), language, source)


def test_a_country_without_a_language_of_the_survey_is_refused(tmp_path):
    with pytest.raises(InputError, match="questions are in en, de, and CHL speaks es; give"):
        asked(dataset(tmp_path, lands=("DEU", "CHL")), "country")
    with pytest.raises(InputError, match="CLDR has no name of NIR in de"):
        country_name("NIR", "de")


def test_a_question_of_one_s_own_is_asked_in_english():
    style = PromptStyle(PromptTemplate.of_source("own.j2", BILINGUAL), language="de")
    with pytest.raises(InputError, match="these prompts are in de, and a question of your own"):
        render("Why?", ("No", "Yes"), (1, 2), {"country": "DEU"}, style)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('["Mann", "Frau"]', '["[MANN]", "Frau"]', r"attribute gender, in\.de: \[MANN\] is no"),
        ('["Mann", "Frau"]', '["Mann"]', r"attribute gender, in\.de: give 2 levels"),
        ('[["n", "Nein"], ["y"', '[["n", "Nein"], ["z"', r"q2, in\.de: `options` are to have the"),
        ('"worth_de"', '"worth"', r"q1, in\.de uses the scale 'worth', which"),
        ('[["y", "Oui"], ["n", "Non"]]', '[["y", "A"], ["n", "a"]]', "q2, in.fr says 'a' twice"),
        ("in.fr.text", "in.en.text", "`in` is .* table of keys by language"),
        ('in.fr.text = "Les loisirs ?"', "", r"question q2, in\.fr lacks `text`"),
        ("Les loisirs ?", "En [PAYS] ?", r"q2, in\.fr: \[PAYS\] is no placeholder"),
    ],
)
def test_words_that_do_not_fit_are_refused(tmp_path, old, new, message):
    assert old in CODEBOOK
    with pytest.raises(InputError, match=message):
        dataset(tmp_path, CODEBOOK.replace(old, new))
