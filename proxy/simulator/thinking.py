"""What a model answers: pure, seeded, and the same however it is asked for (streamed or not, by any dialect).

A dialect turns its request into an `Ask`; `think` turns that into `Choice`s of one-token pieces; the dialect then says
them in its own words. Everything random comes from a hash of (seed, model, what was asked), so the same request gives
the same content. Sums ("what is 17*23?") are answered rightly with the model's accuracy, and half of the luck is shared
between the models, as hard questions are hard for all of them.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from random import Random
from typing import Any

import msgspec
import orjson

from proxy.simulator import tokens
from proxy.simulator.roster import Model
from proxy.simulator.schema import fitting

_SUM = re.compile(r"(-?\d{1,9}(?:\.\d{1,6})?)\s*([+\-*/×·÷−])\s*(-?\d{1,9}(?:\.\d{1,6})?)")
_OPERATIONS = {"×": "*", "·": "*", "÷": "/", "−": "-"}
_TEXT = """
water river weir stone gauge level sluice gate flow bank spring rain slow deep clear cold morning quiet mill wheel
bridge ford reed heron otter trout salmon upstream basin lock canal barge current eddy pool gravel sand moss alder
willow meadow valley source mouth tide delta lake pond fen marsh flood drought summer winter autumn north south east
west light shade mist frost thaw bend reach depth width measure rises falls turns meets keeps carries holds gathers
slows passes runs the the the a a of of in in and and with from under over near past café Fluß 河 naïve
"""
_WORDS = tuple(_TEXT.split())


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    parameters: dict[str, Any]


class Ask(msgspec.Struct):
    """A request in the simulator's own terms. `identity` is a hash of what decides the content."""

    model: Model
    question: str
    identity: bytes
    input_tokens: int
    input_images: int = 0
    input_audio: int = 0
    prefixes: list[tuple[int, bytes]] = []
    n: int = 1
    cap: int | None = None
    stops: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    parallel: bool = True
    after_tool: bool = False
    json: bool = False
    schema: dict[str, Any] | None = None
    effort: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    length: int | None = None


class Call(msgspec.Struct):
    """A tool call: `pieces` of its arguments, which joined are JSON."""

    name: str
    pieces: list[str]


class Choice(msgspec.Struct):
    """One answer. `right` tells whether a sum was answered rightly (None: it was no sum)."""

    pieces: list[str]
    calls: list[Call] = []
    reasoning: int = 0
    finish: str = "stop"
    right: bool | None = None
    doubt: float = 0.05

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def output(self) -> int:
        """Billed output tokens: reasoning, text, and the names and arguments of calls."""
        return self.reasoning + len(self.pieces) + sum(tokens.count(c.name) + len(c.pieces) for c in self.calls)


def drawn(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = blake2b("\x00".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def randomly(seed: int, model: str, identity: bytes) -> Random:
    """The random source of one answer."""
    digest = blake2b(b"%d\x00%s\x00" % (seed, model.encode()) + identity, digest_size=8).digest()
    return Random(int.from_bytes(digest, "big"))  # noqa: S311


def think(ask: Ask, seed: int, answers: tuple[tuple[str, str, str], ...] = ()) -> list[Choice]:
    """The choices of an answer. `answers` are (question contains, right answer, wrong answer), from a scenario."""
    random = randomly(seed, ask.model.name, ask.identity)
    return [_choice(ask, seed, random, answers) for _ in range(ask.n)]


def _choice(ask: Ask, seed: int, random: Random, answers: tuple[tuple[str, str, str], ...]) -> Choice:
    known = _known(ask, seed, answers)
    reasoning = _reasoning(ask, random)
    called = _called(ask)
    if called:
        calls = [Call(t.name, tokens.pieces(_json(fitting(t.parameters, random)))) for t in called]
        return Choice([], calls, reasoning, "tool_calls")
    if ask.json or ask.schema is not None:
        pieces = tokens.pieces(_json(_structured(ask, random, known)))
    else:
        pieces = _spoken(ask, random, known[0] if known else None)
    right = known[1] if known else None
    return _bounded(ask, Choice(pieces, [], reasoning, "stop", right, 0.9 if right is False else 0.05))


def _known(ask: Ask, seed: int, answers: tuple[tuple[str, str, str], ...]) -> tuple[str, bool, Any] | None:
    """The sentence, whether it is right, and the bare value, where the question has an answer."""
    luck = (
        drawn(seed, ask.question)
        if drawn(seed, "shared", ask.question) < 0.5
        else drawn(seed, ask.model.name, ask.question)
    )
    right = luck < ask.model.accuracy
    for part, good, bad in answers:
        if part.lower() in ask.question.lower():
            said = good if right else bad
            return said, right, said
    found = _SUM.search(ask.question)
    value = _computed(found) if found else None
    if value is None or found is None:
        return None
    if not right:
        value += 1 + int(drawn(seed, ask.model.name, ask.question, "off") * 9)
    return f"{found[1]} {found[2]} {found[3]} = {value}", right, value


def _computed(found: re.Match[str]) -> int | float | None:
    left, right = (float(x) if "." in x else int(x) for x in (found[1], found[3]))
    operation = _OPERATIONS.get(found[2], found[2])
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right
    if operation == "*":
        return left * right
    if not right:
        return None
    return left // right if left % right == 0 else round(left / right, 6)


def _reasoning(ask: Ask, random: Random) -> int:
    if ask.model.reasoning is None or ask.effort == "none":
        return 0
    low, high = ask.model.reasoning
    scale = {"minimal": 0.1, "low": 0.4, "high": 2.5}.get(ask.effort or "medium", 1.0)
    return max(1, int(random.randint(low, high) * scale))


def _called(ask: Ask) -> tuple[Tool, ...]:
    """Which tools are called: the named one, or those whose name has a word of the question in it."""
    if not ask.tools or ask.tool_choice == "none":
        return ()
    if ask.tool_choice not in (None, "auto", "required"):
        return tuple(tool for tool in ask.tools if tool.name == ask.tool_choice)
    words = set(re.findall(r"[a-z]{4,}", ask.question.lower()))
    meant = tuple(t for t in ask.tools if words & set(re.findall(r"[a-z]{4,}", t.name.lower().replace("_", " "))))
    if ask.tool_choice == "required":
        meant = meant or ask.tools[:1]
    elif ask.after_tool:
        return ()
    return meant if ask.parallel else meant[:1]


def _structured(ask: Ask, random: Random, known: tuple[str, bool, Any] | None) -> Any:
    answer = known[2] if known else None
    if ask.schema is not None:
        return fitting(ask.schema, random, answer)
    return {"answer": answer if known else " ".join(random.choices(_WORDS, k=3)), "sure": random.random() > 0.5}


def _spoken(ask: Ask, random: Random, answer: str | None) -> list[str]:
    said = tokens.pieces(answer + ".") if answer else []
    length = ask.length if ask.length is not None else len(said) or random.randint(*ask.model.talk)
    while len(said) < length:
        said += _sentence(random, first=not said)
    del said[length:]
    if ask.length is None and not answer and said[-1] != ".":
        said[-1] = "."
    return said


def _sentence(random: Random, first: bool) -> list[str]:
    words = random.choices(_WORDS, k=random.randint(5, 11))
    words[0] = words[0].capitalize()
    return [*(word if first and not i else " " + word for i, word in enumerate(words)), "."]


def _bounded(ask: Ask, choice: Choice) -> Choice:
    """Stop sequences first, then the cap, which reasoning spends too."""
    if ask.stops:
        text = choice.text
        at = min((where for where in map(text.find, ask.stops) if where >= 0), default=-1)
        if at >= 0:
            choice.pieces = tokens.pieces(text[:at])
    if ask.cap is not None and choice.reasoning + len(choice.pieces) > ask.cap:
        choice.reasoning = min(choice.reasoning, ask.cap)
        del choice.pieces[ask.cap - choice.reasoning :]
        choice.finish = "length"
    return choice


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
