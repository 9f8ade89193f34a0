"""What a program printed or raised, as it may be shown to a language model: short, and without secrets.

It is a stranger's text: a model may take it for an instruction, which is why nothing that a model writes is run outside
the sandbox. What looks like a key is replaced before the text leaves this machine; no filter finds all of them.
"""

from __future__ import annotations

import os
import re

LIMIT = 2000
"""Characters that are shown."""

_LOOKED_AT = 50_000  # characters at either end of a text; what lies between is not shown anyway

_SECRETS = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|hf|xox[abprs]|AKIA|ASIA|AIza)[-_]?[A-Za-z0-9_-]{12,400}"
    r"|\beyJ[\w-]{8,4000}\.[\w-]{8,4000}\.[\w-]*"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,200}(?=@)",
    re.DOTALL,
)
_ASSIGNED = re.compile(
    r"(?i)((?:api[_-]?key|secret|token|passw(?:or)?d|credential|authorization)[\w-]{0,40}[\"']?\s{0,9}[:=]\s{0,9})"
    r"(?:bearer\s{1,9})?(\"[^\"]*\"|'[^']*'|\S+)"
)
_NAMED = re.compile(r"(?i)key|secret|token|passw|credential")
_SHORTEST = 8  # of a value of the environment that is searched for


def shown(text: str, limit: int = LIMIT) -> str:
    """``text`` with what looks like a secret replaced, without control characters, and no longer than ``limit``.

    Its beginning and its end are kept: the end of a traceback says most.
    """
    if len(text) > 2 * _LOOKED_AT:
        text = f"{text[:_LOOKED_AT]}\n[...]\n{text[-_LOOKED_AT:]}"
    for name, value in os.environ.items():
        if _NAMED.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "[removed]")
    text = _SECRETS.sub("[removed]", _ASSIGNED.sub(r"\1[removed]", text))
    text = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text).strip()
    if len(text) > limit:
        half = max(1, (limit - 7) // 2)
        text = f"{text[:half]}\n[...]\n{text[-half:]}"[: limit + 1]
    return text
