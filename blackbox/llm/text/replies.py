"""Texts of others in prompts, and a model's text in its reply.

What a candidate says is data: it stands between tags, and whatever in it looks like such a tag is written otherwise.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE, _FENCE = "<prompt>", "</prompt>", "```"
_TAG = re.compile(f"{_OPEN}|{_CLOSE}")
_ESCAPED = re.compile(r"&lt;(?=\s*(?:/\s*)?prompt\b)", re.IGNORECASE)


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


def text_in(reply: str, longest: int, *, is_cut: bool = False) -> str | None:
    """The text that a reply gives: what its last tags ``<prompt>`` hold, or else what its outermost fences do.

    Tags may stand in the text, as a pair or as :func:`delimited` writes them, which is undone. None if there is none,
    or what is there has no letter, more than ``longest`` characters, or such as UTF-8 cannot hold; or if the reply
    ``is_cut`` at the most tokens and a tag or fence is still open. The time it takes is linear, whatever the reply.
    """
    if _CLOSE in reply:
        begin, end, is_open = _outermost(reply)
    else:
        begin, end, is_open = reply.find(_FENCE), reply.rfind(_FENCE), reply.count(_FENCE) % 2 == 1
        if begin < end:
            begin = reply.find("\n", begin, end)  # without the language's name
        begin = begin if begin >= 0 else end
    if is_cut and is_open:
        return None
    text = _ESCAPED.sub("<", reply[begin:end]).strip()
    if len(text) > longest or not any(letter.isalpha() for letter in text):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _outermost(reply: str) -> tuple[int, int, bool]:
    """Begin and end of what the last pair of tags holds that is in no other pair, and whether a tag is still open.

    A closing tag that closes nothing ends the pair before it: a text may speak of it.
    """
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for tag in _TAG.finditer(reply):
        if tag.group() == _OPEN:
            opened.append(tag.end())
        elif opened:
            begin = opened.pop()
            while pairs and pairs[-1][0] > begin:
                pairs.pop()
            pairs.append((begin, tag.start()))
        elif pairs:
            pairs[-1] = (pairs[-1][0], tag.start())
    begin, end = pairs[-1] if pairs else (0, 0)
    return begin, end, bool(opened)
