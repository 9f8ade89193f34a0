"""Dates in notes, rewritten as an archive files them: a task for prompts, and a simulated language model that does it.

Notes have dates such as ``Tue 3.4.21``, ``April 3rd, 2021`` or ``3.IV.2021``; the archive's form is ``2021-04-03``.
Nobody tells the model that form, nor that the day comes first, or which century two digits mean: a prompt must. The
task is for real models as well, and small enough for tests.

The simulated model is a program that parses dates by nine rules, each of which it applies only if its prompt says so in
words that it knows (:data:`VOCABULARY`), or shows in an example. Some sentences are vague and work on half of the
notes, some say the opposite, many do nothing; and it heeds about six sentences, so that every further one makes it
overlook others. The simulated optimizer recombines the sentences of the prompts that it is shown, drops some and adds
some that it knows; told what was expected and what was answered, it often guesses which rule was missing. It does not
know which method asks. It tests that a search works, and how it selects; how well real models write prompts it does not
say.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence

from blackbox.errors import ProviderError
from blackbox.llm.client import Client
from blackbox.llm.provider import Message, Request
from blackbox.llm.text.rollouts import Rollout

TASK = "Rewrite the date in a note in the form in which the archive files it."
SEED = "Rewrite the date for the archive."

RULES = ("form", "padding", "day first", "century", "abbreviations", "ordinals", "weekdays", "roman", "words")
VOCABULARY: Mapping[str, tuple[tuple[str, ...], float]] = {
    # sentence: (rules that it switches on, or off if they begin with "not", share of notes on which it works)
    "Write year, month and day as numbers with hyphens between them.": (("form",), 1.0),
    "Use two digits for the month and for the day.": (("padding",), 1.0),
    "Use the ISO format YYYY-MM-DD.": (("form", "padding"), 1.0),
    "If there are only numbers, the first is the day.": (("day first",), 1.0),
    "Years of two digits below 50 are after 2000, others before.": (("century",), 1.0),
    "Short names such as Sept stand for months.": (("abbreviations",), 1.0),
    "Drop endings of numbers such as st, nd, rd and th.": (("ordinals",), 1.0),
    "Leave out the day of the week.": (("weekdays",), 1.0),
    "Roman numerals stand for months.": (("roman",), 1.0),
    "Days may be written as words, such as third.": (("words",), 1.0),
    "Give the date alone, without the weekday and without endings of numbers.": (("weekdays", "ordinals"), 1.0),
    "Use a standard format.": (("form",), 0.5),
    "Dates are European.": (("day first",), 0.5),
    "Mind the century.": (("century",), 0.5),
    "Months may be abbreviated or Roman.": (("abbreviations", "roman"), 0.5),
    "Translate words into numbers.": (("words", "ordinals"), 0.5),
    "Keep the answer clean.": (("weekdays", "padding"), 0.5),
    "If there are only numbers, the first is the month.": (("not day first",), 1.0),
    "Write the date as it is spoken.": (("not form", "not padding"), 1.0),
    "All years are before 2000.": (("not century",), 1.0),
    "Do not write zeros that are not there.": (("not padding",), 1.0),
    "Keep all that the note says.": (("not weekdays", "not ordinals"), 1.0),
    "Think step by step.": ((), 1.0),
    "You are an experienced archivist.": ((), 1.0),
    "Be concise.": ((), 1.0),
    "Check your answer.": ((), 1.0),
    "This is important to us.": ((), 1.0),
    "Take a deep breath.": ((), 1.0),
    "Do not invent anything.": ((), 1.0),
    "Answer politely.": ((), 1.0),
    "Read the note carefully.": ((), 1.0),
    "The archive is very old.": ((), 1.0),
    "Ask if you are not sure.": ((), 1.0),
    "Work as fast as you can.": ((), 1.0),
}
ATTENTION = 6  # sentences that are all heeded
_INFERRED = 0.3  # how often an example teaches a rule that it needs

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SHORT = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec")
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_WORDS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth",
)  # fmt: skip
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def note(number: int) -> tuple[str, str]:
    """The note with that number, and its date as the archive has it."""
    rng = random.Random(f"note {number}")
    year, month, day = rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 28)
    shown = f"{year % 100:02d}" if rng.random() < 0.4 else str(year)
    kind = rng.choices(("numbers", "name", "short", "ordinal", "roman", "words"), (5, 2, 3, 3, 2, 2))[0]
    if kind == "words":
        day = rng.randint(1, 12)
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    text = {
        "numbers": f"{day}.{month}.{shown}",
        "name": f"{day} {_MONTHS[month - 1]} {shown}",
        "short": f"{day} {_SHORT[month - 1]} {shown}",
        "ordinal": f"{_MONTHS[month - 1]} {day}{ending}, {shown}",
        "roman": f"{day}.{_ROMAN[month - 1]}.{shown}",
        "words": f"the {_WORDS[day - 1] if day <= 12 else day} of {_MONTHS[month - 1]} {shown}",
    }[kind]
    weekday = f"{rng.choice(_WEEKDAYS)} " if rng.random() < 0.3 else ""
    return weekday + text, f"{year}-{month:02d}-{day:02d}"


def judged(number: int, answer: str) -> Rollout:
    """An answer's loss on that note: a quarter each for year, month, day, and the form that the archive has."""
    text, expected = note(number)
    answer = answer.strip()
    numbers = re.findall(r"\d+", answer)
    years = [i for i, part in enumerate(numbers) if len(part) == 4]
    rest = [int(part) for i, part in enumerate(numbers) if i not in years[:1]]
    if years and years[0] > 0:
        rest.reverse()  # the day comes first where the year is last
    year, month, day = map(int, expected.split("-"))
    right = [bool(years) and int(numbers[years[0]]) == year, rest[:1] == [month], rest[1:2] == [day]]
    loss = 1.0 - (sum(right) + (answer == expected)) / 4
    verdict = "right" if loss == 0 else "wrong"
    return Rollout(loss, f"note: {text}\nanswered: {answer}\nexpected: {expected}\n{verdict}", answer)


def solved(number: int) -> Rollout:
    """As if the note were answered rightly."""
    return judged(number, note(number)[1])


def example(number: int, rollout: Rollout) -> str:
    """A note with its answer, as an exemplar."""
    return f"note: {note(number)[0]}\nanswer: {rollout.output}"


def instruction(genome: str | Mapping[str, str] | Sequence[str]) -> str:
    """The prompt that a genome is: a text, several texts by name, or exemplars beside :data:`SEED`."""
    if isinstance(genome, str):
        return genome
    if isinstance(genome, Mapping):
        return "\n".join(genome.values())
    return "\n\n".join([SEED, *genome])


def by_client(client: Client) -> Callable[[object, int], Rollout]:
    """An evaluation by a language model."""

    def evaluate(genome: object, number: int) -> Rollout:
        asked = f"{instruction(genome)}\n\nAnswer with the date only."  # type: ignore[arg-type]
        messages = (Message("system", asked), Message("user", f"note: {note(number)[0]}"))
        return judged(number, client.complete(Request(messages, temperature=0.0, max_tokens=40)).texts[0])

    return evaluate


def by_simulation(genome: object, number: int) -> Rollout:
    """An evaluation by the simulated model, without a client."""
    return judged(number, simulated_answer(instruction(genome), note(number)[0]))  # type: ignore[arg-type]


# ---- the simulated model


def simulated_model(request: Request) -> str:
    """What the simulated model answers, for :class:`blackbox.llm.Scripted`."""
    if len(request.messages) < 2 or not request.messages[-1].content.startswith("note: "):
        raise ProviderError("the simulated model does nothing but rewrite the dates of notes")
    asked = request.messages[0].content.removesuffix("\n\nAnswer with the date only.")
    return simulated_answer(asked, request.messages[-1].content.removeprefix("note: "))


def simulated_answer(prompt: str, text: str) -> str:
    """What the simulated model makes of a note with a prompt, in which there may be examples."""
    pairs = re.findall(r"^note: (.*)\nanswer: (.*)$", prompt, re.MULTILINE)
    plain = re.sub(r"^(note|answer): .*$", "", prompt, flags=re.MULTILINE)
    rules: set[str] = set()
    for shown, answer in pairs:
        needed = [rule for rule in RULES if _rewritten(shown, {*RULES} - {rule}) != answer]
        rules |= {rule for rule in needed if _chance(shown, rule) < _INFERRED}
    said = sentences(plain)
    heeded = min(1.0, ATTENTION / max(1, len(said)))
    for sentence in said:
        effects, works = VOCABULARY.get(sentence, ((), 1.0))
        if _chance(sentence, text) < works * heeded:
            rules |= {rule for rule in effects if not rule.startswith("not ")}
            rules -= {rule.removeprefix("not ") for rule in effects if rule.startswith("not ")}
    return _rewritten(text, rules)


def sentences(prompt: str) -> list[str]:
    """The sentences of a prompt, each once."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", prompt)
    return list(dict.fromkeys(part.strip() for part in parts if any(map(str.isalpha, part))))


def _rewritten(text: str, rules: set[str]) -> str:
    """The date as these rules parse and write it."""
    weekday, _, rest = text.partition(" ")
    if weekday not in _WEEKDAYS:
        weekday, rest = "", text
    parts = re.findall(r"\w+", rest.removeprefix("the ").replace(" of ", " "))
    if parts[0] in _MONTHS:
        parts[0], parts[1] = parts[1], parts[0]
    first, second, year = parts
    month = day = ""
    if second.isdigit():
        both = (int(first), int(second)) if "day first" in rules else (int(second), int(first))
        number, place = both if both[1] <= 12 else both[::-1]
        day, month = str(number), str(place)
    else:
        for names, rule in ((_MONTHS, ""), (_SHORT, "abbreviations"), (_ROMAN, "roman")):
            if second in names and (not rule or rule in rules):
                month = str(names.index(second) + 1)
                break
        month = month or second
        digits = re.match(r"\d+", first)
        if digits is not None:
            day = digits[0] if "ordinals" in rules or digits[0] == first else first
        else:
            day = str(_WORDS.index(first) + 1) if "words" in rules else first
    if len(year) == 2:
        year = f"20{year}" if "century" in rules and int(year) < 50 else f"19{year}"
    if "padding" in rules:
        month, day = (part.zfill(2) if part.isdigit() else part for part in (month, day))
    written = f"{year}-{month}-{day}" if "form" in rules else f"{day} {month} {year}"
    return written if not weekday or "weekdays" in rules else f"{weekday} {written}"


def _chance(*of: str) -> float:
    """A number between 0 and 1 that only depends on the texts."""
    return int.from_bytes(hashlib.sha256("\n".join(of).encode()).digest()[:6]) / 2**48


# ---- the simulated optimizer

_GUESSED = 0.7  # how often it makes out which rule a mistake is about
_SILENT = 0.03  # how often it forgets the tags


def simulated_optimizer(request: Request) -> str:
    """What the simulated optimizer writes, for :class:`blackbox.llm.Scripted`: a function of the whole request."""
    rng = random.Random(request.text())
    asked = request.messages[-1].content
    if rng.random() < _SILENT:
        return "I would make it clearer and more specific."
    shown = re.findall(r"<prompt>\n(.*?)\n</prompt>(?:\nscore: (\d+))?", asked, re.DOTALL)
    parents = [sentences(text) for text, _ in shown] or [[SEED]]
    weights = [(1 + int(score)) ** 2 if score else 1 for _, score in shown] or [1]
    one, other = (rng.choices(parents, weights)[0] for _ in range(2))
    child = [part for part in one if part in other or rng.random() < 0.7]
    child += [part for part in other if part not in one and rng.random() < 0.5]
    if child and rng.random() < 0.4:
        child.pop(rng.randrange(len(child)))
    mistakes = re.findall(r"^note: (.*)\nanswered: (.*)\nexpected: (.*)\nwrong$", asked, re.MULTILINE)
    if mistakes and rng.random() < _GUESSED:
        text, answered, expected = rng.choice(mistakes)
        missing = _missing_rule(text, answered, expected, rng)
        about = [
            sentence
            for sentence, (effects, _) in VOCABULARY.items()
            if missing in {effect.removeprefix("not ") for effect in effects}
        ]
        child.append(rng.choice(about))
    elif rng.random() < 0.8:
        child.append(rng.choice(list(VOCABULARY)))
    return f"<prompt>{' '.join(dict.fromkeys(child)) or SEED}</prompt>"


def _missing_rule(text: str, answered: str, expected: str, rng: random.Random) -> str:
    """One of the rules without which such an answer comes about, as one sees by comparing it with what was expected."""
    without = [rule for rule in RULES if _rewritten(text, {*RULES} - {rule}) != expected]
    seen = [rule for rule in without if _shows(rule, text, answered)]
    return rng.choice(seen or list(RULES))


def _shows(rule: str, text: str, answered: str) -> bool:
    """Whether an answer looks like one without the rule."""
    if rule == "form":
        return re.search(r"\d{4}-", answered) is None
    if rule == "padding":
        return re.search(r"(?<!\d)\d(?!\d)", answered) is not None
    if rule == "weekdays":
        return answered.split(" ")[0] in _WEEKDAYS
    if rule == "century":
        return re.search(r"19\d\d", answered) is not None
    if rule == "day first":
        return text.count(".") == 2
    return any(part in answered for part in re.findall(r"[A-Za-z0-9]*[A-Za-z]+", text) if part not in _MONTHS)


def simulated(request: Request) -> str:
    """What either of them says: the model to a note, the optimizer to anything else."""
    is_note = request.messages[-1].content.startswith("note: ")
    return simulated_model(request) if is_note else simulated_optimizer(request)
