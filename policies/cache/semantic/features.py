"""What the nearest entries say about a question. Pure.

Rules:
1. The answer is put to the vote: the ten nearest entries, grouped by equal answer, weigh by nearness. The group with
   most weight is the candidate; its nearest member is the entry whose answer would be given.
2. Then the candidate is looked at closely: how it lies to the others, and what its text has that the question hasn't.
3. The same neighbours are looked at through the partition's lens, which shows answers further apart than cosines do.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import exp, log1p
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cache.semantic.facts import Facts, facts_of, opposites, unpacked
from policies.cache.semantic.partition import NEAR, Held, Near, Partition, lengths_of
from policies.cache.semantic.static import MOST_TOKENS, Static, Tokens, Vector

Array = npt.NDArray[np.floating[Any]]
VOTERS: Final = 10
_SHARP: Final = 20.0  # how fast a vote fades with distance
_LOOKED_AT: Final = 2  # members of the candidate whose texts are compared

# name, centre, spread, and what a spread more is worth before anything was learnt (logits).
_TABLE: Final[tuple[tuple[str, float, float, float], ...]] = (
    ("best", 0.70, 0.15, 1.0),  # similarity of the candidate's nearest member
    ("share", 0.60, 0.30, 0.4),  # its share of the weighed votes
    ("margin", 0.05, 0.10, 0.4),  # to the nearest entry with another answer
    ("count", 0.45, 0.35, 0.1),  # its share of the votes by number
    ("count_far", 0.35, 0.35, 0.0),  # the same among all neighbours
    ("behind", 0.01, 0.03, -0.1),  # how much nearer the nearest entry of all is
    ("centroid", 0.75, 0.15, 0.3),  # similarity to the middle of its members nearby
    ("centroid_margin", 0.05, 0.10, 0.4),  # to the middle of another group's
    ("members", 1.5, 1.3, 0.1),  # log of how many entries have this answer
    ("around", 0.50, 0.12, 0.0),  # mean similarity of all neighbours
    ("words", 0.40, 0.30, 0.6),  # shared words by all words, rare ones weigh more
    ("pairs", 0.25, 0.25, 0.2),  # shared neighbouring pairs of words: order
    ("verbatim", 0.03, 0.20, 0.6),  # the same words, whatever their case, order and punctuation
    ("covered", 0.75, 0.15, 0.6),  # how well each token of either text is matched in the other, by weight
    ("worst", 0.45, 0.20, 0.4),  # the worst matched one
    ("covered_margin", 0.05, 0.12, 0.2),  # how much better than by the nearest entry with another answer
    ("numbers", 0.05, 0.22, -0.8),  # other numbers
    ("negation", 0.05, 0.22, -0.6),  # one of them negated
    ("opposites", 0.03, 0.17, -0.6),  # words that undo each other
    ("asks", 0.40, 0.49, -0.2),  # another kind of question
    ("length", 0.30, 0.25, -0.1),  # how different in length
    ("record", 0.50, 0.25, 0.3),  # how often this answer was right when it was looked at
    ("short", 0.30, 0.30, 0.0),  # few words to go by
    # through the lens:
    ("lens_best", 0.50, 0.30, 0.0),  # similarity of the candidate's nearest member
    ("lens_margin", 0.10, 0.25, 0.0),  # to the nearest entry with another answer
    ("lens_share", 0.60, 0.30, 0.0),  # its share of the weighed votes of all neighbours
    ("lens_centroid", 0.60, 0.25, 0.0),  # similarity to the middle of its members nearby
    ("lens_centroid_margin", 0.10, 0.25, 0.0),  # to the middle of another answer's
    ("lens_first", 0.80, 0.40, 0.0),  # whether the nearest is its member
)
NAMES: Final = tuple(name for name, *_ in _TABLE)
CENTRES: Final[Array] = np.array([row[1] for row in _TABLE])
SPREADS: Final[Array] = np.array([row[2] for row in _TABLE])
PRIOR: Final[Array] = np.array([row[3] for row in _TABLE])
_NO_LENS: Final = tuple(row[1] for row in _TABLE if row[0].startswith("lens_"))
_LENS_SHARP: Final = 8.0
_ONES: Final = np.eye(NEAR, dtype=np.float32)


class Question(msgspec.Struct, frozen=True):
    """What is asked: its text and what that says, its vector, and its tokens: their numbers, unit vectors, weights."""

    text: str
    facts: Facts
    vector: Vector
    tokens: Tokens
    units: Vector
    weights: Vector


class Candidate(msgspec.Struct, frozen=True):
    """The group that won the vote, the place of its nearest member, and the features."""

    group: int
    place: int
    similarity: float
    features: Array


def question(text: str, static: Static, vector: Vector | None = None) -> Question:
    """A text made ready; with the static vector unless another is given."""
    tokens = static.tokens(text)
    units, weights = static.weighed(tokens)
    if vector is None:
        vector = static.pointing(units, weights)
    most = MOST_TOKENS
    return Question(text, facts_of(text), vector, tokens[:most], units[:most], weights[:most])


def candidate(
    asked: Question, near: Near, partition: Partition, static: Static, record: Callable[[int], float]
) -> Candidate:
    """Votes, and looks closely. `record` says how often a group's answer was right when it was looked at."""
    similar, groups, places = near.similar.tolist(), near.groups.tolist(), near.places.tolist()
    first, voters = similar[0], groups[:VOTERS]
    votes: dict[int, float] = {}
    for value, group in zip(similar, voters, strict=False):
        votes[group] = votes.get(group, 0.0) + exp(_SHARP * (value - first))
    winner = max(votes, key=votes.__getitem__)
    named = {winner: 0}  # the groups by number, the winner first
    numbers = [named.setdefault(group, len(named)) for group in groups]
    nearest = dict(zip(reversed(groups), reversed(similar), strict=True))  # of each group
    mine = [at for at, number in enumerate(numbers) if not number]
    best = similar[mine[0]]
    other_at = next((at for at, number in enumerate(numbers) if number), None)
    other = similar[-1] - 0.05 if other_at is None else similar[other_at]
    centroid, *others = partition.middles(named, asked.vector, [nearest[group] for group in named])
    looked = [places[at] for at in mine[:_LOOKED_AT]]
    rival = [] if other_at is None else [places[other_at]]
    matches = _matched(asked, [_held(partition, place).tokens for place in looked + rival], static)
    close = _closely(asked.facts, looked, matches, partition)
    against = matches[-1][0] if rival else 0.4
    features = np.array(
        (
            best,
            votes[winner] / sum(votes.values()),
            best - other,
            voters.count(winner) / len(voters),
            len(mine) / len(groups),
            first - best,
            centroid,
            centroid - max(others, default=centroid - 0.3),
            log1p(partition.members[winner]),
            sum(similar) / len(similar),
            *close[:5],
            close[3] - against,
            *close[5:10],
            record(winner),
            close[10],
            *_through_lens(asked.vector, near, numbers, partition),
        )
    )
    return Candidate(winner, looked[0], best, features)


def _through_lens(vector: Vector, near: Near, numbers: list[int], partition: Partition) -> tuple[float, ...]:
    """How the neighbours lie as the lens shows them (number 0 is the candidate); without one, what changes nothing."""
    if partition.lens is None:
        return _NO_LENS
    others, mine = partition.seen.take(near.places, 0), partition.lens.through(vector)
    similar = others @ mine
    members = _ONES[: max(numbers) + 1].take(numbers, 1)
    sums = members @ others
    middle, *rivals = ((members @ similar) / lengths_of(sums)).tolist()
    alike = similar.tolist()
    nearest = max(alike)
    best = max([value for value, number in zip(alike, numbers, strict=True) if not number])
    rival = max([value for value, number in zip(alike, numbers, strict=True) if number], default=min(alike) - 0.05)
    weights = np.exp(_LENS_SHARP * (similar - np.float32(nearest)))
    return (
        best,
        best - rival,
        float(members[0] @ weights / weights.sum()),
        middle,
        middle - max(rivals, default=middle - 0.3),
        float(best == nearest),
    )


def _held(partition: Partition, place: int) -> Held:
    held = partition.held[place]
    assert held is not None
    return held


def _closely(
    mine: Facts, looked: list[int], matches: list[tuple[float, float]], partition: Partition
) -> tuple[float, ...]:
    """The texts of the nearest members: the best match of each kind; mismatches only where all have them."""
    words, pairs = unpacked(mine.words), unpacked(mine.pairs)
    weight = partition.weight(words)
    rows = []
    for place, (covered, worst) in zip(looked, matches, strict=False):
        theirs = partition.facts[place]
        other = unpacked(theirs.words)
        both = partition.weight(words & other)
        either = weight + partition.weight(other) - both if words or other else 0.0
        rows.append(
            (
                both / either if either else 1.0,
                _alike(pairs, unpacked(theirs.pairs)),
                mine.spelt == theirs.spelt,
                covered,
                worst,
                -(mine.numbers != theirs.numbers),
                -(mine.negated != theirs.negated),
                -opposites(mine.opposed, theirs.opposed),
                -(mine.asks != theirs.asks),
                -abs(mine.length - theirs.length) / max(mine.length, theirs.length, 1),
            )
        )
    best = list(map(max, *rows)) if len(rows) > 1 else rows[0]
    return (*best[:5], *[-each for each in best[5:]], 1 / (1 + len(words)))


def _alike(mine: frozenset[int], theirs: frozenset[int]) -> float:
    both = len(mine & theirs)
    either = len(mine) + len(theirs) - both
    return both / either if either else 1.0


def _matched(asked: Question, texts: list[bytes], static: Static) -> list[tuple[float, float]]:
    """How well the tokens of each text are matched in the other: the weighed mean, and the worst heavy one.

    All texts at once: one product of matrices, cut where the texts are.
    """
    counts = [len(text) // 2 for text in texts]
    starts = [0, *accumulate(counts[:-1])]
    units, weights = static.weighed(np.frombuffer(b"".join(texts), np.uint16))
    pairs = asked.units @ units.T
    forth = np.maximum.reduceat(pairs, starts, axis=1)  # each of mine, in each text
    back = pairs.max(0)
    mine = asked.weights
    whole = float(mine.sum())
    covered = (mine @ forth) / whole
    totals = np.add.reduceat(weights, starts)
    covered_back = np.add.reduceat(back * weights, starts) / totals
    worst = forth[mine >= whole / len(mine)].min(0)
    means = [total / count for total, count in zip(totals.tolist(), counts, strict=True)]
    back[weights < np.repeat(np.array(means, np.float32), counts)] = 1
    worst_back = np.minimum.reduceat(back, starts)
    return list(zip(np.minimum(covered, covered_back).tolist(), np.minimum(worst, worst_back).tolist(), strict=True))
