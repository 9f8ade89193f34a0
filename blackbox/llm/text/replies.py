"""Texts of others in prompts, and a model's text in its reply.

What a candidate says is data: it stands between tags, and whatever in it looks like such a tag is written otherwise.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE, _FENCE = "<prompt>", "</prompt>", "```"


def delimited(text: str, tag: str = "prompt") -> str:
    """``text`` between lines ``<tag>`` and ``</tag>``, neither of which it can hold itself."""
    inside = re.sub(rf"<(?=\s*/?\s*{tag}\b)", "&lt;", text, flags=re.IGNORECASE)
    return f"<{tag}>\n{inside}\n</{tag}>"


def shortened(text: str, longest: int) -> str:
    """``text``, or its beginning and end with a mark where characters were left out."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[len(text) - half :]}"


def text_in(reply: str, longest: int) -> str | None:
    """The text that a reply gives: what its last tags ``<prompt>`` hold, or else what its outermost fences do.

    None if there is none, or what is there has no letter, more than ``longest`` characters, or such as UTF-8 cannot
    hold. The time it takes is linear, whatever the reply.
    """
    end = reply.rfind(_CLOSE)
    if end >= 0:
        begin = reply.rfind(_OPEN, 0, end)
        text = reply[begin + len(_OPEN) : end] if begin >= 0 else ""
    else:
        begin, end = reply.find(_FENCE), reply.rfind(_FENCE)
        text = reply[begin + len(_FENCE) : end].partition("\n")[2] if begin < end else ""  # without the language's name
    text = text.strip()
    if len(text) > longest or not any(letter.isalpha() for letter in text):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
