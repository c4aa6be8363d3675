"""Who asks: the credential in a request's head, and what it says about its bearer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clients.identity import Keys, Open, credential
from proxy.errors import WeirError
from tests.plane.running import key

BEARER = b"authorization"


def refused(*headers: tuple[bytes, bytes]) -> WeirError:
    with pytest.raises(WeirError) as error:
        credential(list(headers))
    return error.value


@pytest.mark.parametrize("value", [b"Bearer sk-1", b"bearer sk-1", b"Bearer  sk-1 "])
def test_bearer(value: bytes) -> None:
    """The scheme's case and spaces around the key don't matter (RFC 9110, 11.1)."""
    assert credential([(BEARER, value)]) == b"sk-1"


@pytest.mark.parametrize("name", [b"x-api-key", b"api-key"])
def test_other_headers(name: bytes) -> None:
    """Anthropic's and Azure's headers carry a key too; the same one twice is still one."""
    assert credential([(name, b"sk-1")]) == b"sk-1"
    assert credential([(BEARER, b"Bearer sk-1"), (name, b"sk-1")]) == b"sk-1"


def test_none() -> None:
    """No credential is not an error yet."""
    assert credential([(b"host", b"x")]) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(BEARER, b"Bearer a"), (BEARER, b"Bearer b")],
        [(BEARER, b"Bearer a"), (BEARER, b"Bearer a")],
        [(BEARER, b"Bearer a"), (b"x-api-key", b"b")],
        [(b"x-api-key", b"a"), (b"api-key", b"b")],
        [(BEARER, b"Basic dTpw")],
        [(BEARER, b"Bearer")],
        [(BEARER, b"Bearer ")],
        [(BEARER, b"")],
        [(b"x-api-key", b"")],
        [(BEARER, b"Bearer " + b"x" * 5000)],
    ],
)
def test_ambiguous(headers: list[tuple[bytes, bytes]]) -> None:
    """Two credentials, another scheme, none at all or one too long: 401 with the challenge, and no word of it back."""
    error = refused(*headers)
    assert (error.status, error.code, error.headers) == (401, "invalid_api_key", ((b"www-authenticate", b"Bearer"),))
    assert b"xxxx" not in error.body()


@given(one=st.binary(min_size=1, max_size=60), two=st.binary(min_size=1, max_size=60))
def test_open_tenants(one: bytes, two: bytes) -> None:
    """Open mode: the tenant is a hash of the key, the same for the same key and another for another."""
    identities = Open()
    first, second = (identities.identify([(b"x-api-key", value)]) for value in (one, two))
    assert (first.tenant == second.tenant) == (one == two)
    assert identities.identify([(b"x-api-key", one)]).tenant == first.tenant
    assert one.hex() not in first.tenant or len(one) < 3


def test_open_keeps_no_key() -> None:
    """What is remembered of a client's own key is its hash."""
    identities = Open()
    identities.identify([(BEARER, b"Bearer sk-canary-0123456789")])
    assert "canary" not in repr(list(identities._known.items()))


def test_open_without_a_key() -> None:
    """Nobody in particular is a tenant too."""
    assert Open().identify([]).tenant == "anonymous"


def test_groups() -> None:
    """The tenant is the smallest named group of the key; a key of no group is its own."""
    records = [
        key("a", "key-a", org="o", team="t", project="p"),
        key("b", "key-b", org="o", team="t"),
        key("c", "key-c"),
        key("d", "key-d", team="t"),
    ]
    keys = Keys(records)
    tenants = [keys.identify([(b"x-api-key", name)]).tenant for name in (b"a", b"b", b"c", b"d")]
    assert tenants == ["o/t/p", "o/t", "key-c", "-/t"]


def test_groups_cannot_be_confused() -> None:
    """A name with a slash in it isn't another group's tenant."""
    groups = [
        {"team": "x/y"},
        {"team": "x", "project": "y"},
        {"org": "x/y"},
        {"org": "x", "team": "y"},
        {"org": "x", "project": "y"},
        {"project": "x/y"},
        {"org": "-", "team": "x/y"},
    ]
    keys = Keys([key(str(number), f"key-{number}", **group) for number, group in enumerate(groups)])
    found = {keys.identify([(b"x-api-key", str(number).encode())]).tenant for number in range(len(groups))}
    assert len(found) == len(groups)


def test_expiry() -> None:
    """A key opens until the second of its expiry, and not in it."""
    now = [1000.0]
    keys = Keys([key("a", expires=1010.0)], clock=lambda: now[0])
    assert keys.recognise([(b"x-api-key", b"a")])[1] == 1010.0
    now[0] = 1009.999
    keys.identify([(b"x-api-key", b"a")])
    now[0] = 1010.0
    with pytest.raises(WeirError):
        keys.identify([(b"x-api-key", b"a")])


def test_replaced() -> None:
    """A revoked key, and one that is no longer there, are refused from the next request on."""
    keys = Keys([key("a", "key-a"), key("b", "key-b")])
    keys.replace([key("a", "key-a", revoked=1.0), key("c", "key-c")])
    for name in (b"a", b"b"):
        with pytest.raises(WeirError):
            keys.identify([(b"x-api-key", name)])
    assert keys.identify([(b"x-api-key", b"c")]).key == "key-c"


def test_replaced_in_steps() -> None:
    """Thousands of keys aren't read in one go; the table before counts until the last is."""
    keys = Keys([key("a", "key-a")])
    steps = keys.replacing([key(str(number)) for number in range(600)])
    found = [keys.identify([(b"x-api-key", b"a")]).key for _ in steps]
    assert len(found) > 1 and {*found} == {"key-a"}
    assert keys.identify([(b"x-api-key", b"599")])
    with pytest.raises(WeirError):
        keys.identify([(b"x-api-key", b"a")])


@given(st.binary(max_size=80))
def test_nothing_else_opens(guess: bytes) -> None:
    """No other text than the key opens, the hash of the key included."""
    record = key("wk-right")
    keys = Keys([record])
    for value in (guess, record.sha256.encode(), record.id.encode()):
        if value != b"wk-right":
            with pytest.raises(WeirError):
                keys.identify([(b"x-api-key", value)])
