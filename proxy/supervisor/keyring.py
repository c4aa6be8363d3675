"""Which virtual keys open the proxy now: those declared in the teams file and those made by `weir keys`.

Rules: a hash that is revoked in `keys.json` stays closed even where the teams file declares it. A damaged `keys.json`
keeps the keys that were known (and is an error at the start), because "no keys" and "can't read the keys" must never
look the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.clients.keys import KeyRecord, KeyStore


def merged(
    declared: Sequence[KeyRecord], made: Sequence[KeyRecord], inherit: Callable[[KeyRecord], KeyRecord] | None = None
) -> tuple[KeyRecord, ...]:
    """All keys that are not revoked, by hash; made ones win. Expiry is the workers' to check."""
    revoked = {key.sha256 for key in made if key.revoked is not None}
    open_keys = made if inherit is None else [inherit(key) for key in made if key.revoked is None]
    by_hash = {key.sha256: key for key in [*declared, *open_keys]}
    return tuple(key for key in by_hash.values() if key.sha256 not in revoked)


def bootstrap(store: KeyStore, declared: Sequence[KeyRecord]) -> str | None:
    """The first key of a container that demands keys and has none, not even a revoked one; None where there is one.

    Whoever starts the container reads it from the output once; what is stored is its hash.
    """
    if declared or store.list():
        return None
    secret, _ = store.create(tags={"made": "bootstrap"})
    return secret
