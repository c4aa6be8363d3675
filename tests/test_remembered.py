"""Bodies that are known again: the same object for the same key and bytes, within a bound, and for nobody else."""

from __future__ import annotations

from proxy.body import scan
from proxy.exchange import Identity
from proxy.remembered import LARGEST_BYTES, Bodies

ALICE, BOB = Identity("acme", key="a"), Identity("acme", key="b")


def raw(number: int, size: int = 100) -> bytes:
    return b'{"model":"m","seed":%d,"text":"%s"}' % (number, b"x" * size)


def test_nothing_unless_it_is_allowed() -> None:
    """Without a policy that wants it nothing is kept."""
    bodies = Bodies()
    bodies.remember(ALICE, scan(raw(1)))
    assert len(bodies) == 0 and bodies.get(ALICE, raw(1)) is None


def test_one_keys_body_is_its_own() -> None:
    """Another key of the same tenant doesn't find it, nor does another tenant with the same key's name."""
    bodies = Bodies()
    bodies.allow(100_000)
    body = scan(raw(1))
    bodies.remember(ALICE, body)
    assert bodies.get(ALICE, raw(1)) is body
    for other in (BOB, Identity("river", key="a"), Identity("acme")):
        assert bodies.get(other, raw(1)) is None
    assert bodies.get(ALICE, raw(2)) is None


def test_bounded() -> None:
    """The oldest leave; what a policy takes back is given back at once; large ones are never kept."""
    bodies = Bodies()
    bodies.allow(100_000)
    for number in range(100):
        bodies.remember(ALICE, scan(raw(number)))
        bodies.remember(ALICE, scan(raw(number)))
    assert 10 < len(bodies) < 40
    assert bodies.get(ALICE, raw(99)) is not None and bodies.get(ALICE, raw(0)) is None
    bodies.allow(1_000_000)
    bodies.remember(ALICE, scan(raw(1, LARGEST_BYTES)))
    assert bodies.get(ALICE, raw(1, LARGEST_BYTES)) is None
    bodies.allow(-1_100_000)
    assert len(bodies) == 0 and bodies.limit_bytes == 0
