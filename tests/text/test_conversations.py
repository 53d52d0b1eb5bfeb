"""Message lists through chat templates: every character accounted for, nothing of the template swapped."""

import copy
import json
import pickle
from datetime import datetime
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
from chat_templates import TEMPLATES, chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from shared import REPOSITORY
from transformers import AddedToken
from transformers.utils import chat_template_utils

from distill.base.errors import UserError
from distill.recipe import CorpusConfig
from distill.text.alignment import encode_marked
from distill.text.conversations import (
    Conversation,
    Messages,
    as_given,
    chat_prompt,
    read_messages,
    rendered,
    stored_messages,
)
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.wordlist import load_wordlist

TALK = [
    {"role": "user", "content": "My nurse lost her keys. Where would she look?"},
    {"role": "assistant", "content": "She should ask her king."},
    {"role": "user", "content": "He has none"},
    {"role": "assistant", "content": "Then he should look again."},
]


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


@pytest.fixture(params=TEMPLATES)
def tokenizer(request, toy_tokenizer):
    return chat_tokenizer(toy_tokenizer, request.param)


def messages(talk=TALK) -> Messages:
    return read_messages(talk, "x")


def contents_of(conversation: Conversation) -> list[str]:
    """What stands where the conversation says that its messages stand."""
    contents = conversation.messages.contents
    return [conversation[at : at + len(content)] for at, content in zip(conversation.starts, contents, strict=True)]


def test_a_rendered_conversation_is_the_tokenizers_own_and_holds_each_message_where_it_says(tokenizer):
    found = rendered(messages(), tokenizer)
    assert found == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert contents_of(found) == [message["content"] for message in TALK]
    assert found.answers is None


@pytest.mark.parametrize(
    "date", ["{{ strftime_now('%d %b %Y') }}", '{% set d = strftime_now( "%Y-%m-%d" ) %}{{ d }}', "{{ date_string }}"]
)
def test_a_template_with_todays_date_says_the_same_tomorrow(toy_tokenizer, monkeypatch, date):
    """As Llama 3 and SmolLM3: what is kept of a template from yesterday fits, and prompts stay what they were."""
    chatting = chat_tokenizer(toy_tokenizer, "chatml")
    default = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    chatting.chat_template = f"{default}<|turn|>system\nToday: {date}<|end|>\n{chatting.chat_template}"
    said = []
    for day in (1, 2):
        monkeypatch.setattr(
            chat_template_utils, "datetime", SimpleNamespace(now=lambda day=day: datetime(2031, 5, day))
        )
        said.append((str(rendered(messages(), chatting)), chat_prompt("He saw", chatting)))
    assert said[0] == said[1] and "2024" in said[0][0] and "2031" not in said[0][0]
    assert contents_of(rendered(messages(), chatting)) == [message["content"] for message in TALK]


def test_a_turns_end_may_hold_the_white_space_behind_it(toy_tokenizer):
    """As Phi-3's, whose token swallows the line break: the model must still learn to write it."""
    made = copy.deepcopy(toy_tokenizer)
    markers = [AddedToken("<|turn|>", normalized=False), AddedToken("<|end|>", rstrip=True, normalized=False)]
    made.add_special_tokens({"additional_special_tokens": markers})
    made.chat_template = TEMPLATES["chatml"]
    document = rendered(messages(), made, answers_only=True)
    (ids,), _, (marked,) = encode_marked(document, made, (), document.answers)
    end = made.convert_tokens_to_ids("<|end|>")
    assert [bool(of_answer) for i, of_answer in zip(ids, marked, strict=True) if i == end] == [
        False, False, True, False, True,
    ]  # fmt: skip


def test_answers_are_the_assistants_words_and_the_token_that_ends_them(toy_tokenizer):
    ends = {"chatml": "<|end|>", "headers": "<|end|>", "brackets": f" {toy_tokenizer.eos_token}", "plain": ""}
    for template, end in ends.items():
        found = rendered(messages(), chat_tokenizer(toy_tokenizer, template), answers_only=True)
        spoken = [found[start:stop] for start, stop in found.answers]
        assert spoken == [TALK[1]["content"] + end, TALK[3]["content"] + end], template


def test_one_counterfactual_of_the_whole_and_none_of_the_template(tokenizer, swapper):
    """The truth: every message's words swapped as in the conversation read as one text, and rendered again."""
    swapped = {
        "My nurse lost her keys. Where would she look?": "My nurse lost his keys. Where would he look?",
        "She should ask her king.": "He should ask his queen.",
        "He has none": "She has none",
        "Then he should look again.": "Then she should look again.",
    }
    other = [message | {"content": swapped[message["content"]]} for message in TALK]
    found = swapper.swap(conversation := rendered(messages(), tokenizer))
    assert found.text == tokenizer.apply_chat_template(other, tokenize=False)
    for start, end, cf_start, cf_end in found.spans:
        assert (conversation[start:end].lower(), found.text[cf_start:cf_end].lower()) in {
            ("her", "his"), ("she", "he"), ("king", "queen"), ("he", "she")
        }  # fmt: skip
    listed = [conversation[match.start : match.end] for match in swapper.matches(conversation)]
    assert listed == ["her", "she", "She", "her", "king", "He", "he"]


WORDS = ["he", "She", "her", "his", "King", "the nurse", "said.", "ä", "👩‍⚕️", "\n", "  ", "<|end|>", "{{ x }}"]
TALKS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=4)


@given(TALKS)
def test_whatever_is_said_the_template_stays_and_swapping_twice_gives_it_back(toy_tokenizer, swapper, contents):
    talk = [
        {"role": ("user", "assistant")[number % 2], "content": content.strip()}
        for number, content in enumerate(contents)
    ]
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    conversation = rendered(messages(talk), tokenizer)
    found = swapper.swap(conversation)
    joined = swapper.swap("\n\n".join(message["content"] for message in talk))
    assert len(found.spans) == len(joined.spans)
    # Outside the spans nothing changes; inside stands what the plain text would have got.
    position = cf_position = 0
    for (start, end, cf_start, cf_end), plain in zip(found.spans, joined.spans, strict=True):
        assert conversation[position:start] == found.text[cf_position:cf_start]
        assert found.text[cf_start:cf_end] == joined.text[plain.cf_start : plain.cf_end]
        position, cf_position = end, cf_end
    assert conversation[position:] == found.text[cf_position:]


def test_conversations_survive_being_sent_to_another_process(tokenizer):
    for document in (messages(), rendered(messages(), tokenizer, answers_only=True)):
        again = pickle.loads(pickle.dumps(document))
        assert again == document
        assert vars(again) == vars(document)


def test_messages_are_a_text_for_whoever_knows_no_template():
    assert messages(TALK[:2]) == f"{TALK[0]['content']}\n\n{TALK[1]['content']}"


def test_a_prompt_is_what_the_assistant_has_begun_to_say(tokenizer):
    """So the model goes on right behind it, in its own turn."""
    found = chat_prompt("The nurse said that", tokenizer)
    assert found.endswith("The nurse said that")
    whole = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "Continue this text: The nurse said that"},
            {"role": "assistant", "content": "The nurse said that"},
        ],
        tokenize=False,
    )
    assert whole.startswith(found)
    assert as_given("no conversation", tokenizer) == "no conversation"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"role": "user"}], ["message 1", "content"]),
        ([TALK[0], "hello"], ["message 2"]),
        ([TALK[0], {"role": "assistant", "content": None}], ["message 2", "must be text"]),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], ["message 1", "must be text"]),
        ([TALK[0] | {"tool_calls": [{"name": "f"}]}], ["message 1", "calls tools"]),
    ],
)
def test_lists_that_are_no_conversations_are_named(value, words):
    with pytest.raises(UserError) as error:
        read_messages(value, "x.jsonl, line 7")
    for word in ["x.jsonl, line 7", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "he", "[]", "[1]", '[{"role": "user"}]', '[{"role": "user", "content": 1}]', '[{"role": "u', "[{" * 9999],
)
def test_other_texts_than_json_of_messages_stay_texts(text):
    assert stored_messages(text) is None


def test_json_of_messages_is_read():
    talk = [{"role": "user", "content": "she \n", "rating": 1}, {"role": "assistant", "content": ""}]
    assert stored_messages(f" {json.dumps(talk, indent=2)}\n") == talk


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}, "message 2 calls tools"),
        ({"role": "assistant", "tool_calls": [{"name": "f"}]}, "message 2 has no 'content'"),
        ({"role": "assistant", "content": None}, "content of message 2 is null"),
        ({"role": "assistant", "content": [{"type": "text", "text": "He."}]}, "content of message 2 is a list"),
        ({"from": "gpt", "value": "He."}, "message 2 has no 'role', but from, value"),
    ],
)
def test_json_of_messages_that_are_refused_as_lists_is_no_text_either(tmp_path, message, why):
    talk = [TALK[0], message]
    with pytest.raises(UserError, match=why):
        read_messages(talk, "here")
    for name in ("talk.csv", "talk.parquet"):
        table = pa.table({"messages": [json.dumps(TALK), json.dumps(talk)]})
        (csv.write_csv if name.endswith("csv") else parquet.write_table)(table, tmp_path / name)
        config = CorpusConfig(source="files", files=[str(tmp_path / name)], text_column="messages")
        with pytest.raises(UserError, match=why):
            list(read_documents(config, 0))


def test_keys_beside_role_and_content_play_no_part():
    assert messages([message | {"weight": 1, "tool_calls": None} for message in TALK]) == messages()


def test_what_a_template_cannot_do_is_one_sentence(toy_tokenizer):
    with pytest.raises(UserError, match="has no chat template"):
        rendered(messages(), toy_tokenizer)
    with pytest.raises(UserError, match=r"user, user: roles must alternate$"):
        rendered(messages([TALK[0], TALK[2]]), chat_tokenizer(toy_tokenizer, "brackets"))
    tokenizer = chat_tokenizer(toy_tokenizer, "plain")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | replace('keys', 'coat') }}\n{% endfor %}"
    with pytest.raises(UserError, match="changes what is said in the conversation that begins 'My nurse"):
        rendered(messages(), tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match="does not render each message"):
        rendered(messages(), tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }"
    with pytest.raises(UserError, match="refuses messages"):
        rendered(messages(), tokenizer)


def test_generation_markers_in_a_template_change_nothing(toy_tokenizer):
    """Some templates mark what the assistant writes: theirs and ours must be the same stretches."""
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
    )
    found = rendered(messages(), tokenizer, answers_only=True)
    theirs = tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    offsets = tokenizer(str(found), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ours = [int(any(start < end <= stop for start, stop in found.answers)) for _, end in offsets]
    assert ours == list(theirs["assistant_masks"])
    assert json.dumps(ours).count("1") > 4


def test_the_bundled_conversations_are_sound_and_held_out_ones_are_others(swapper):
    folder, found = REPOSITORY / "recipes" / "conversations", {}
    for name in ("train", "held_out"):
        config = CorpusConfig(source="files", files=[str(folder / f"{name}.jsonl")], text_column="messages")
        found[name] = list(read_documents(config, 0))
        for document in found[name]:
            spoken = [role for role in document.roles if role != "system"]
            assert spoken == ["user", "assistant"] * (len(spoken) // 2)
            assert all(document.contents)
    assert (len(found["train"]), len(found["held_out"])) == (48, 8)
    assert not set(found["train"]) & set(found["held_out"])
    edited = [document for document in found["train"] if swapper.swap(document).spans]
    assert len(edited) > 40
    answers = [swapper.matches(rendered_answer) for rendered_answer in map(_answers, found["train"])]
    groups = [match.group for matches in answers for match in matches]
    assert 0.4 < sum(groups) / len(groups) < 0.6  # as much of women as of men; what they do is another matter


def _answers(document: Messages) -> str:
    pairs = zip(document.roles, document.contents, strict=True)
    return " ".join(content for role, content in pairs if role == "assistant")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"from": "human", "value": "She"}, "message 1 has no 'role', but from, value; .* give its keys these names"),
        ({"role": "user", "text": "She"}, "message 1 has no 'content', but role, text"),
        ({}, "has no 'role', but nothing"),
        ({"role": "user", "content": None}, "content of message 1 is null, but must be text"),
        ({"role": "user", "content": [{"type": "text"}]}, "content of message 1 is a list, but must be text"),
        ({"role": 1, "content": "She"}, "role of message 1 is a int, but must be text"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(message, words):
    with pytest.raises(UserError, match=f"^x: .*{words}"):
        read_messages([message], "x")
