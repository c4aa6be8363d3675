"""The simulated replicas, and that prompts that share blocks share marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.prefix import BLOCK_TOKENS, Prompt, Replica, main, request_of, rows, run
from proxy.upstreams.prefix import marks_of


def prompt(*blocks: int, at_s: float = 0.0) -> Prompt:
    return Prompt(at_s, len(blocks) * BLOCK_TOKENS, 10, blocks)


def test_a_replica_computes_what_it_has_not_cached() -> None:
    """Leading blocks that it has cost nothing; the least recently used goes first; prompts wait for each other."""
    replica = Replica(blocks=4)
    first_s, cached = replica.serve(prompt(1, 2, 3), 0.0)
    assert cached == 0
    second_s, cached = replica.serve(prompt(1, 2, 9), 0.0)
    assert cached == 2 * BLOCK_TOKENS
    assert 0 < second_s - first_s < first_s
    assert replica.serve(prompt(3), 0.0)[1] == BLOCK_TOKENS
    replica.serve(prompt(7, 8), 0.0)
    assert replica.serve(prompt(1, 2), 0.0)[1] == 0


def test_shared_blocks_are_shared_bytes() -> None:
    """Two prompts have the marks of their common blocks in common."""
    texts: dict[int, bytes] = {}
    one, other = marks_of(request_of(prompt(1, 2, 3), texts)), marks_of(request_of(prompt(1, 2, 4), texts))
    assert one[:5] == other[:5]
    assert one[-1] != other[-1]


def test_conversations_hit() -> None:
    """Conversations that grow are cached where they were; round robin mostly misses."""
    prompts = [
        prompt(0, *range(100 * number + 1, 100 * number + 4 + turn), at_s=10.0 * turn + number / 10)
        for turn in range(6)
        for number in range(21)
    ]
    ours, spread = run(prompts, 40, "prefix-affinity"), run(prompts, 40, "weighted")
    assert ours.hit_rate > spread.hit_rate + 0.1


def test_a_row_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row for each size of cache, and one for the cost of choosing."""
    monkeypatch.setattr("bench.prefix.cost_us", lambda: 5.0)
    made = list(rows([prompt(0, number % 7 + 1, at_s=number / 3) for number in range(60)], (50,)))
    assert len(made) == 2
    assert made[1].verdict == "pass"


def test_without_the_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where the trace isn't, nothing is measured, and that is said."""
    monkeypatch.setattr("bench.prefix.TRACE", tmp_path / "nowhere.jsonl")
    assert main(["--quick"]) == 0
    assert "skipped: there is no trace" in capsys.readouterr().out
