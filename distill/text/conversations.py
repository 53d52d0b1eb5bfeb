"""Conversations: lists of messages -> the text of a model's chat template, and where in it the messages stand.

1. A list of {role, content} is a `Messages`: a text too, that of its contents, for whoever knows no template.
2. The template is rendered twice, with the contents and with a mark in the place of each. What stands between the marks
   is the template's own; put together with the contents, it must give the first rendering, or the template does with
   contents what is not known here, and is refused.                                          -> `Conversation`

Templates need no `{% generation %}` for this, which few have.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from distill.base.errors import UserError, first_line
from distill.base.long_input import encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN = "\n\n"  # two messages of a conversation as one text
_MARK = "\ue000{}\ue001"  # in the place of a content; characters that no template holds
_ASSISTANT = "assistant"
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
_REQUEST = "Continue this text: {}"
_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_TODAY = date(2024, 7, 26)  # that of Llama's template where it is told none


class Messages(str):
    """A conversation as it was read. As a text it is its contents with blank lines between them.

    roles: who speaks, one for each message.
    contents: what is said, without white space around it, as many templates render it.
    label: what its row says of it, where that is asked for, see `documents.label_of`.
    """

    roles: tuple[str, ...]
    contents: tuple[str, ...]
    label: str | None = None

    def __new__(cls, roles: Sequence[str], contents: Sequence[str]) -> "Messages":
        contents = tuple(encodable(content.strip()) for content in contents)
        made = super().__new__(cls, BETWEEN.join(contents))
        made.roles, made.contents = tuple(roles), contents
        return made

    def __getnewargs__(self) -> tuple:  # what pickle calls `__new__` with
        return self.roles, self.contents


class Conversation(str):
    """A conversation as a chat template renders it.

    messages: What it was rendered from.
    starts: Where each content begins in the text.
    answers: (start, end) of what the assistant writes: its contents, each with the special token that ends its turn;
        None where the whole text bears loss.
    """

    messages: Messages
    starts: tuple[int, ...]
    answers: tuple[tuple[int, int], ...] | None

    def __new__(
        cls, text: str, messages: Messages, starts: Sequence[int], answers: Sequence[tuple[int, int]] | None
    ) -> "Conversation":
        made = super().__new__(cls, text)
        made.messages, made.starts = messages, tuple(starts)
        made.answers = None if answers is None else tuple(answers)
        return made

    def __getnewargs__(self) -> tuple:
        return str(self), self.messages, self.starts, self.answers

    def shift(self, start: int, end: int) -> int | None:
        """By how much [start, end) of the messages' text must be moved to stand in this text; None between messages."""
        begins = [0, *accumulate(len(content) + len(BETWEEN) for content in self.messages.contents)]
        number = bisect_right(begins, start) - 1
        inside = end <= begins[number] + len(self.messages.contents[number])
        return self.starts[number] - begins[number] if inside else None


def read_messages(value: Sequence[Any], where: str) -> Messages:
    """A list of {role, content} as it stands in a row; other keys, such as a rating, play no part.

    Args:
        value: The list.
        where: Its place, for messages.

    Raises:
        UserError: it is no such list, or calls tools, which is not known here.
    """
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise UserError(f"{where}: message {number} is no {{role, content}}; a text or a list of those is expected")
        if missing := [key for key in ("role", "content") if key not in message]:
            there = ", ".join(map(str, message)) or "nothing"
            raise UserError(
                f"{where}: message {number} has no '{missing[0]}', but {there}; a list of {{role, content}} is "
                "expected, so give its keys these names"
            )
        if message.get("tool_calls"):
            raise UserError(f"{where}: message {number} calls tools, which is not supported; leave such rows out")
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                kind = "null" if message[key] is None else f"a {type(message[key]).__name__}"
                raise UserError(f"{where}: {key} of message {number} is {kind}, but must be text; leave such rows out")
    return Messages([message["role"] for message in value], [message["content"] for message in value])


def stored_messages(text: str) -> list[dict[str, Any]] | None:
    """The messages that a cell holds as JSON, for tables have no other way to; None where it is any other text.

    Also such as `read_messages` refuses, for nobody wants to train on their JSON: without a text (null, or a list of
    parts), as where tools are called, or as {from, value}.
    """
    if not _LIST_OF_OBJECTS.match(text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if all(map(_is_message, found)) else None


def _is_message(value: Any) -> bool:
    """Whether a value of JSON can only have been meant as a message."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("role"), str):
        return isinstance(value.get("content", 0), str | list | None) or bool(value.get("tool_calls"))
    return isinstance(value.get("from"), str) and isinstance(value.get("value"), str)


def rendered(messages: Messages, tokenizer: "PreTrainedTokenizerBase", answers_only: bool = False) -> Conversation:
    """A conversation in the form that a model was trained on.

    Args:
        messages: The conversation.
        tokenizer: Its `chat_template` renders it.
        answers_only: Whether only what the assistant writes bears loss.

    Raises:
        UserError: the tokenizer has no chat template, or it refuses these roles, or changes what they say.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template, so it cannot read conversations; take an "
            "instruct model, or a column of texts"
        )
    between, turn_ends = _template_parts(tokenizer, str(tokenizer.chat_template), messages.roles)
    whole = _render(tokenizer, messages.roles, messages.contents)
    pieces = [between[0]]
    starts, answers, at = [], [], len(between[0])
    for role, content, following, turn_end in zip(
        messages.roles, messages.contents, between[1:], turn_ends, strict=True
    ):
        starts.append(at)
        pieces += (content, following)
        if role == _ASSISTANT:
            answers.append((at, at + len(content) + turn_end))
        at += len(content) + len(following)
    if "".join(pieces) != whole:
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template changes what is said in the conversation that begins "
            f"'{messages[:40]}', so that its messages cannot be told from the template; leave such rows out"
        )
    return Conversation(whole, messages, starts, answers if answers_only else None)


def chat_prompt(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """A prompt as an instruct model meets it: the user asks to continue it, and the assistant has begun to.

    So what follows it directly is still the next word, as after the prompt alone.

    Raises:
        UserError: see `rendered`.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template to put prompts into; take an instruct "
            "model, or set scores.chat to false (leave --chat out)"
        )
    conversation = rendered(Messages(["user", _ASSISTANT], [_REQUEST.format(prompt), prompt]), tokenizer)
    return conversation[: conversation.starts[-1] + len(conversation.messages.contents[-1])]


def as_given(document: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """A document as a model reads it: a conversation through the model's chat template, a text as it is."""
    return rendered(document, tokenizer) if isinstance(document, Messages) else document


@lru_cache(maxsize=64)
def _template_parts(
    tokenizer: "PreTrainedTokenizerBase", template: str, roles: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What the template puts before, between and behind the contents of messages with these roles.

    Kept by the template too, which its owner may change.

    Returns:
        The N + 1 parts; and for each message how many characters of the part behind it end its turn: up to the end of
        the special token that comes first there, 0 where there is none.
    """
    marks = [_MARK.format(number) for number in range(len(roles))]
    rest = _render(tokenizer, roles, marks)
    parts = []
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise UserError(
                f"{tokenizer.name_or_path}: its chat template does not render each message of the roles "
                f"{', '.join(roles)} once and in order; such conversations cannot be used"
            )
        parts.append(before)
    parts.append(rest)
    # Token -> whether the white space behind it belongs to it, as to those of Phi-3.
    special = dict.fromkeys(tokenizer.all_special_tokens, False)
    special |= {token.content: token.rstrip for token in tokenizer.added_tokens_decoder.values()}
    return tuple(parts), tuple(_turn_end(part, special) for part in parts[1:])


def with_one_date(template: str) -> str:
    """A chat template that writes one date for ever, where it would write today's (Llama 3, SmolLM3).

    Else the same recipe would train on other text tomorrow, and two models be asked different prompts.
    """
    return _NOW.sub(lambda now: json.dumps(_TODAY.strftime(now[2])), template)


def _turn_end(part: str, special: Mapping[str, bool]) -> int:
    spaces = len(part) - len(part.lstrip())
    token = max((token for token in special if token and part.startswith(token, spaces)), key=len, default="")
    behind = part[spaces + len(token) :]
    swallowed = len(behind) - len(behind.lstrip()) if special.get(token) else 0
    return spaces + len(token) + swallowed if token else 0


def _render(tokenizer: "PreTrainedTokenizerBase", roles: Sequence[str], contents: Sequence[str]) -> str:
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        template = with_one_date(tokenizer.get_chat_template())
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
    except Exception as error:  # a template may raise anything
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template refuses messages of the roles {', '.join(roles)}: "
            f"{first_line(error)}"
        ) from None
