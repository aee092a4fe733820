from ace_jax.survey.personas import ATTRIBUTES, personas


def test_fifteen_combinations_and_eighty_personas():
    assert [len(personas(ATTRIBUTES, g)) for g in (1, 2, 3, 4)] == [8, 24, 32, 16]
    everyone = [tuple(sorted(p.items())) for g in (1, 2, 3, 4) for p in personas(ATTRIBUTES, g)]
    assert len(set(everyone)) == 80


def test_a_persona_names_its_attributes_in_order():
    assert personas(ATTRIBUTES, 2)[1] == {"gender": "Male", "education": "Not College Educated"}


def test_the_treated_level_is_the_paper_s():
    treated = [attribute.levels[1] for attribute in ATTRIBUTES]
    assert treated == ["Female", "Not College Educated", "Rural", "Not Married"]
