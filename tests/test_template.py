import pytest

from ace_jax.errors import InputError
from ace_jax.prompts.options import listed
from ace_jax.prompts.template import BUILT_IN, PromptTemplate
from ace_jax.survey.personas import ATTRIBUTES, personas

PERSONAS = [persona for size in (1, 2, 3, 4) for persona in personas(ATTRIBUTES, size)]
LEVELS = [level for attribute in ATTRIBUTES for level in attribute.levels]
OPTIONS = listed(("Too little", "About right", "Too much"), (1, 2, 3), "number", False)


def render(template, persona=PERSONAS[-1]):
    return template.render("Mexico", persona, "How much for parks?", OPTIONS)


def from_source(tmp_path, source):
    (tmp_path / "own.j2").write_text(source)
    return PromptTemplate.load(str(tmp_path / "own.j2"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_templates_say_it_all_and_nothing_else(name):
    template = PromptTemplate.load(name)
    texts = [render(template, persona) for persona in PERSONAS]
    assert len(set(texts)) == 80
    for persona, text in zip(PERSONAS, texts, strict=True):
        assert not set("{}%#") & set(text)
        assert "\n\n\n" not in text
        assert text.endswith("Answer:\n")
        assert text.count("Mexico") >= 1
        assert text.count("How much for parks?") == 1
        for option in OPTIONS:
            assert f"\n{option.label}. {option.text}\n" in text
        # "College Educated" is in "Not College Educated": compare what is left without it.
        named = sorted(persona.values(), key=len, reverse=True)
        rest = text
        for level in named:
            assert level in rest
            rest = rest.replace(level, "")
        assert not [level for level in LEVELS if level in rest]


@pytest.mark.parametrize("name", ["persona_first", "question_first"])
def test_what_comes_first_is_first(name):
    text = render(PromptTemplate.load(name))
    first, second = ("Not Married", "parks?")[:: 1 if name == "persona_first" else -1]
    assert text.index(first) < text.index(second)


def test_an_attribute_that_the_persona_does_not_name_is_undefined(tmp_path):
    source = "{{ country }}:{{ gender }}{% if education is defined %}:{{ education }}{% endif %}"
    template = from_source(tmp_path, source)
    assert render(template, {"gender": "Male"}) == "Mexico:Male\n"
    assert render(template, {"education": "College Educated"}) == "Mexico::College Educated\n"


def test_a_text_ends_with_one_newline(tmp_path):
    assert render(from_source(tmp_path, "Answer:  \n\n \n")) == "Answer:\n"
    assert render(from_source(tmp_path, "Answer:")) == "Answer:\n"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ country.__init__.__globals__ }}",
        "{{ persona.update({'gender': 'x'}) }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format(country) }}",
    ],
)
def test_the_sandbox_refuses(tmp_path, source):
    persona = {"gender": "Male"}
    with pytest.raises(InputError, match=r"prompt\.template: "):
        render(from_source(tmp_path, source), persona)
    assert persona == {"gender": "Male"}


def test_a_class_alone_is_nothing(tmp_path):
    assert render(from_source(tmp_path, "[{{ country.__class__ }}]")) == "[]\n"


@pytest.mark.parametrize(
    "source", ["{{ 1 // 0 }}", "{{ country + 1 }}", "{% for i in range(10**9) %}{% endfor %}"]
)
def test_a_template_that_fails_is_an_input_error(tmp_path, source):
    with pytest.raises(InputError, match=r"prompt\.template: "):
        render(from_source(tmp_path, source))


def test_no_such_template():
    with pytest.raises(InputError, match=r"'nowhere' is neither a file nor one of persona_first,"):
        PromptTemplate.load("nowhere")


def test_a_syntax_error_is_located(tmp_path):
    with pytest.raises(InputError, match=r"own\.j2, line 2: "):
        from_source(tmp_path, "fine\n{% for %}")


@pytest.mark.parametrize("source", ["{{ 1" + 4999 * "0" + " }}", 9999 * "{% if x %}"])
def test_what_jinja_cannot_compile_is_an_input_error(tmp_path, source):
    with pytest.raises(InputError, match=r"own\.j2"):
        from_source(tmp_path, source)


def test_a_file_that_is_no_text_is_an_input_error(tmp_path):
    (tmp_path / "own.j2").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"own\.j2"):
        PromptTemplate.load(str(tmp_path / "own.j2"))
