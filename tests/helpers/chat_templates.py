"""Chat templates in the manners of today's instruct models, written for the tests, and a toy tokenizer to go with them.

Role markers and template text hold listed words on purpose: they must never be swapped.
"""

import copy

from transformers import AddedToken

_ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)

TEMPLATES = {
    # A system prompt of its own where none is given; turns end with a special token and a line break.
    "chatml": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|turn|>system\nYou serve her and the king."
        "<|end|>\n{% endif %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    ),
    # A start token at the head of the text, contents trimmed, no line break at the end.
    "headers": (
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }} of his<|turn|>\n\n{{ m.content | trim }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant of his<|turn|>\n\n{% endif %}"
    ),
    # Brackets instead of markers, an end token behind each answer alone, no system prompt.
    "brackets": _ALTERNATE
    + "{% if m.role == 'user' %}{{ bos_token }}[HE] {{ m.content }} [/HE]{% else %} {{ m.content }} {{ eos_token }}"
    "{% endif %}{% endfor %}",
    # No special token at all.
    "plain": "{% for m in messages %}### {{ m.role }} to her:\n{{ m.content }}\n\n{% endfor %}",
}


def chat_tokenizer(tokenizer, template: str):
    """A copy of a toy tokenizer with the markers of these templates as special tokens, and one of the templates."""
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|turn|>", normalized=False), AddedToken("<|end|>")]}
    )
    made.chat_template = TEMPLATES[template]
    return made
