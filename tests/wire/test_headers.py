"""Which header fields cross the proxy."""

from __future__ import annotations

from proxy.wire.headers import HOP_BY_HOP, connection_options, for_client, for_upstream, get

NONE: frozenset[bytes] = frozenset()


def names(*fields: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, b"v") for name in fields]


def test_requests_lose_what_belongs_to_this_hop_and_what_only_we_say() -> None:
    """All else passes, in its order."""
    dropped = [*HOP_BY_HOP, b"host", b"content-length", b"expect", b"forwarded", b"via", b"x-real-ip"]
    dropped += [b"x-weir-tags", b"x-weir-anything", b"x-forwarded-for", b"x-forwarded-whatever"]
    kept = [b"authorization", b"content-type", b"openai-beta", b"x-custom", b"x-weird", b"x-forward", b"cookie"]
    for _ in range(2):  # the second time from memory
        assert for_upstream(names(*dropped, *kept), NONE) == names(*kept)
        assert for_upstream(names(*kept), frozenset((b"cookie", b"x-custom"))) == names(
            b"authorization", b"content-type", b"openai-beta", b"x-weird", b"x-forward"
        )


def test_answers_keep_what_is_on_the_list() -> None:
    """A cookie, a server's name, an alternative service aren't; a deployment may add names."""
    kept = [b"content-type", b"retry-after", b"x-request-id", b"openai-processing-ms", b"x-ratelimit-limit-tokens"]
    dropped = [
        *HOP_BY_HOP,
        b"set-cookie",
        b"server",
        b"alt-svc",
        b"strict-transport-security",
        b"content-length",
        b"x-y",
    ]
    for _ in range(2):
        assert for_client(names(*kept, *dropped)) == names(*kept)
        assert for_client(names(*kept, *dropped), frozenset((b"x-y",))) == names(*kept, b"x-y")


def test_names_from_outside_do_not_fill_the_memory() -> None:
    """The verdict on a name is remembered, but not on endlessly many."""
    many = names(*(b"x-random-%d" % number for number in range(5000)))
    assert for_upstream(many, NONE) == many
    assert for_client(many) == []
    assert for_upstream(names(b"x-weir-late", b"late"), NONE) == names(b"late")
    from proxy.wire import headers

    assert len(headers._request_passes) <= 1024
    assert len(headers._response_passes) <= 1024


def test_connection_names_what_it_names() -> None:
    """In any case, over several fields."""
    fields = [(b"connection", b"Keep-Alive, X-Hop"), (b"x", b"y"), (b"connection", b" close ")]
    assert connection_options(fields) == {b"keep-alive", b"x-hop", b"close"}
    assert connection_options([]) == frozenset()


def test_fields_are_found_by_name() -> None:
    """The first of several, or None."""
    fields = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert (get(fields, b"a"), get(fields, b"c")) == (b"1", None)
