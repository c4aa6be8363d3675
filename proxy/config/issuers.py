"""Issuers of tokens: whose signatures count, and what their claims say about a client.

Rules: models only. Algorithms are those with a public and a private key: with `none` or a shared secret (HS256 …)
anyone who may check a token could make one (RFC 8725, 3.1 and 3.2).
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from proxy.config.limits import Seconds
from proxy.config.scalars import Duration, Names, OneOrMore, listed, wrong
from proxy.config.strict import Strict

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise wrong("expected an https address", "keys that arrive unprotected prove nothing")
    if not parts.hostname or parts.username or parts.password:
        raise wrong("expected an address such as https://login.example.com/realm")
    return text


Url = Annotated[str, AfterValidator(_url)]
Texts = Annotated[tuple[str, ...], BeforeValidator(listed), OneOrMore]
Algorithms = Annotated[tuple[Algorithm, ...], BeforeValidator(listed), OneOrMore]


class Claims(Strict):
    """Which claims say who asks. A claim is named as it is, or by the path to it, as `realm_access.roles`."""

    key: str = "sub"
    """What the client is called in logs, reports and `match.key`, after the issuer's name."""
    team: str | None = None
    """The team; a list, as of groups, if `teams` says what its values mean."""
    project: str | None = None
    """The project; its team then follows."""
    role: str | None = None
    """What `roles` is about."""
    tags: dict[str, str] = {}
    """Tags, by name: the claims that they are from."""


class Issuer(Strict):
    """Who issues tokens, and what they say."""

    url: Url
    """What `iss` must be, to the letter."""
    audience: Texts
    """What `aud` must hold one of."""
    jwks: Url | None = None
    """Where its public keys are; without it, where `<url>/.well-known/openid-configuration` says."""
    algorithms: Algorithms = ("RS256", "ES256")
    """The algorithms that are accepted."""
    leeway_s: Seconds = Field(default=30.0, le=300)
    """By how much clocks may differ for `exp`, `nbf` and `iat`."""
    longest_s: Seconds = Field(default=24 * 3600.0, gt=0)
    """A token that is valid for longer than this after it was issued is refused."""
    refresh_s: Seconds = Field(default=600.0, ge=5)
    """How often its public keys are fetched."""
    overlap_s: Duration = 300.0
    """How long a public key is accepted after the issuer has stopped to name it."""
    outage_s: Duration = 24 * 3600.0
    """How long the public keys are used that were fetched last, when they can't be fetched."""
    claims: Claims = Claims()
    """Which claims say who asks."""
    teams: dict[str, str] = {}
    """What values of the team's claim mean: which team of this file. The first that matches counts. Without it, the
    value is the team's name."""
    team: str | None = None
    """The team of those whose claims say none. Without it they are refused, if there is a claim for the team."""
    tags: dict[str, str] = {}
    """Tags of every request made with its tokens."""
    models: Names | None = None
    """The models its bearers may ask for, by name or pattern; all that are offered, unless named."""
    require: dict[str, Texts] = {}
    """Claims that a token must have, and the values of which one must be there."""
    roles: dict[str, Literal["viewer", "finance", "operator"]] = {}
    """What values of the role's claim may do on the admin listener. The most that one of them may counts."""
