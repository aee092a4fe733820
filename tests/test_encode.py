import pandas as pd
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ace_jax.errors import InputError
from ace_jax.prompts.encode import (
    Prompt,
    PromptStyle,
    check_prompts,
    encode,
    render_cells,
)
from ace_jax.prompts.language import country_name
from ace_jax.prompts.template import in_chat
from ace_jax.survey.dataset import read_dataset

GSS = read_dataset("gss2018")
TURNS = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}{% endfor %}"
CHAT = TURNS + "{% if add_generation_prompt %}<s>assistant\n{% endif %}"


def tokenizer_with(*merges, chat_template=None, bos=False, eos=False):
    """Byte-level BPE that joins nothing but `merges`; digits stay single."""
    tokens = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    if bos or eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(["<s>"] * bos + ["$A"] + ["<s>"] * eos), special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=chat_template, bos_token="<s>"
    )


def cells(question_id="natspac"):
    return GSS.cells[GSS.cells["question_id"] == question_id].reset_index(drop=True)


def encoded(tokenizer, table, style="number", chat=False, template="persona_first"):
    texts = render_cells(table, GSS, PromptStyle.of(template, style))
    return encode(texts, tokenizer, chat=chat)


@pytest.mark.parametrize("bos", [False, True])
def test_a_prompt_with_an_option_is_the_text_with_its_label(bos):
    tokenizer = tokenizer_with(("t", "o"), bos=bos)
    table = cells()
    prompts = encoded(tokenizer, table)
    assert len(prompts) == len(table) == 80
    for cell, prompt in zip(table.to_dict("records"), prompts, strict=True):
        text = tokenizer.decode(prompt.tokens, skip_special_tokens=True)
        assert (prompt.tokens[0] == 0) == bos
        assert pd.isna(cell["gender"]) or cell["gender"] in text
        assert "United States" in text
        for option, label in zip(prompt.options, ("1", "2", "3"), strict=True):
            assert list(prompt.tokens + option) == tokenizer(text + label)["input_ids"]


def test_ten_is_two_tokens_where_digits_are_split():
    tokenizer = tokenizer_with()
    (prompt, *_) = encoded(tokenizer, cells("relactiv"))
    one, zero = tokenizer("10")["input_ids"]
    assert [len(option) for option in prompt.options] == [1] * 9 + [2]
    assert prompt.options[0] == (one,)
    assert prompt.options[9] == (one, zero)


def test_letters():
    tokenizer = tokenizer_with()
    (prompt, *_) = encoded(tokenizer, cells("relactiv"), style="letter")
    assert tokenizer.decode([token for option in prompt.options for token in option]) == (
        "ABCDEFGHIJ"
    )


def test_a_label_that_melts_into_the_prompt_is_refused():
    melting = tokenizer_with(("Ċ", "2"))  # Ċ is the line break
    with pytest.raises(InputError, match=r"label '2' melts into the prompt's end 'Answer:\\n'"):
        encoded(melting, cells())
    encoded(melting, cells(), style="letter")


def test_the_chat_template_wraps_the_same_prompt():
    tokenizer = tokenizer_with(chat_template=CHAT, bos=True)
    plain_and_chat = (encoded(tokenizer, cells(), chat=chat) for chat in (False, True))
    for plain, chat in zip(*plain_and_chat, strict=True):
        text = tokenizer.decode(plain.tokens, skip_special_tokens=True)
        wrapped = f"<s>user\n{text.rstrip()}<s>assistant\n"
        # The template writes the special tokens itself: none is put before them.
        assert list(chat.tokens) == tokenizer(wrapped, add_special_tokens=False)["input_ids"]
        assert chat.options == plain.options


@pytest.mark.parametrize("bos", [False, True])
def test_a_start_token_of_the_template_is_not_doubled(bos, tmp_path, caplog):
    (tmp_path / "own.j2").write_text("\n<s> {{ question }}\nAnswer:")
    caplog.set_level("INFO", "ace_jax")
    for prompt in encoded(tokenizer_with(bos=bos), cells(), template=str(tmp_path / "own.j2")):
        assert prompt.tokens.count(0) == 1
    said = "warning: prompt.template writes <s>, which the tokenizer adds; once is kept"
    assert caplog.messages == [said] * bos


def test_a_tokenizer_that_makes_no_token_is_refused():
    """A damaged tokenizer.json can lack all tokens of a text."""
    deaf = tokenizer_with()
    deaf.backend_tokenizer.normalizer = normalizers.Replace(Regex("."), "")
    with pytest.raises(InputError, match="makes no token of the text 1"):
        encoded(deaf, cells())


def test_a_tokenizer_that_ends_prompts_is_refused():
    with pytest.raises(InputError, match=r"ends a prompt with a token of its own, .*add_eos"):
        encoded(tokenizer_with(eos=True), cells())
    encoded(tokenizer_with(eos=True, chat_template=CHAT), cells(), chat=True)


def test_a_chat_template_gets_no_date():
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}1{% endif %}\n"
    assert in_chat(["x"], tokenizer_with(chat_template="\n" + dated + CHAT)) == [
        "\n1<s>user\nx<s>assistant\n"
    ]
    with pytest.raises(InputError, match="chat template: writes today's date, and prompts would"):
        encoded(tokenizer_with(chat_template="{{ strftime_now('%Y') }}"), cells(), chat=True)


def test_no_chat_template():
    with pytest.raises(InputError, match=r"prompt\.chat: .* no chat template"):
        encoded(tokenizer_with(), cells(), chat=True)


def test_unknown_option_styles_are_refused():
    with pytest.raises(InputError, match="option_style: 'roman'"):
        encoded(tokenizer_with(), cells(), style="roman")


def test_prompts_that_the_model_cannot_read():
    prompts = [Prompt((5, 6, 7), ((1,), (2, 8)))]
    check_prompts(prompts, vocab_size=9, window=5)
    check_prompts(prompts, vocab_size=9, window=None)
    with pytest.raises(InputError, match="the tokenizer gives token 8, but the model has 8"):
        check_prompts(prompts, vocab_size=8, window=None)
    with pytest.raises(InputError, match="a prompt has 5 tokens with its answer, more than the 4"):
        check_prompts(prompts, vocab_size=9, window=4)


def test_countries_have_english_names():
    assert [country_name(code) for code in ("USA", "TWN", "VNM", "XKX", "NIR", "ZZZ")] == [
        "United States",
        "Taiwan",
        "Vietnam",
        "Kosovo",
        "Northern Ireland",
        "ZZZ",
    ]
    assert country_name("BOL") == "Bolivia"
