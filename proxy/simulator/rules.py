"""Which faults a request meets that asks for none: those of the first rule that holds for it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from random import Random

from proxy.simulator import faults
from proxy.simulator.scenario import Rule

Chosen = list[tuple[faults.Fault, tuple[str, ...]]]


class _Counted:
    """A rule and how many requests have met its other conditions."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.faults = faults.parse(rule.fault)
        self.met = 0

    def holds(self, model: str, path: str, stream: bool, key: str, random: Random) -> bool:
        rule = self.rule
        if rule.model is not None and not fnmatchcase(model, rule.model):
            return False
        if rule.path is not None and not fnmatchcase(path, rule.path):
            return False
        if (rule.stream is not None and rule.stream is not stream) or (rule.key is not None and rule.key != key):
            return False
        self.met += 1
        if rule.nth is not None and self.met != rule.nth:
            return False
        if rule.every is not None and self.met % rule.every:
            return False
        if rule.first is not None and self.met > rule.first:
            return False
        return rule.probability is None or random.random() < rule.probability


class Rules:
    """The rules of a scenario, and those added since."""

    def __init__(self, rules: tuple[Rule, ...], random: Random) -> None:
        self._rules = [_Counted(rule) for rule in rules]
        self._random = random

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, rule: Rule) -> None:
        self._rules.append(_Counted(rule))

    def clear(self) -> None:
        self._rules.clear()

    def choose(self, model: str, path: str, stream: bool, key: str) -> Chosen:
        """The faults of the first rule that holds; all rules count the request."""
        chosen: Chosen = []
        for counted in self._rules:
            if counted.holds(model, path, stream, key, self._random) and not chosen:
                chosen = counted.faults
        return chosen
