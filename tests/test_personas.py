import pytest

from ace_jax.errors import InputError
from ace_jax.prompts.encode import attributes_named
from ace_jax.survey.personas import ATTRIBUTES, RESERVED, Attribute, personas


def test_fifteen_combinations_and_eighty_personas():
    assert [len(personas(ATTRIBUTES, g)) for g in (1, 2, 3, 4)] == [8, 24, 32, 16]
    everyone = [tuple(sorted(p.items())) for g in (1, 2, 3, 4) for p in personas(ATTRIBUTES, g)]
    assert len(set(everyone)) == 80


def test_a_persona_names_its_attributes_in_order():
    assert personas(ATTRIBUTES, 2)[1] == {"gender": "Male", "education": "Not College Educated"}


def test_the_treated_level_is_the_paper_s():
    treated = [attribute.levels[1] for attribute in ATTRIBUTES]
    assert treated == ["Female", "Not College Educated", "Rural", "Not Married"]


@pytest.mark.parametrize("name", sorted(RESERVED - {"country"}))
def test_names_that_prompts_and_tables_use_are_refused(name):
    """An attribute called `question` stood in the place of the question, without a word."""
    with pytest.raises(InputError, match=f"attribute '{name}': .*rename"):
        Attribute(name, ("A", "B"))
    with pytest.raises(InputError, match=f"persona: '{name}' cannot be"):
        attributes_named([{"country": "DEU", name: "A"}], {})
