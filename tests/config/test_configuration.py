"""The configuration travels to the workers as JSON and arrives as it was."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import (
    Address,
    Conditions,
    Configuration,
    Deployment,
    DeploymentFile,
    Key,
    Limits,
    Model,
    PolicyEntry,
    Price,
    Secret,
    TeamsFile,
    Timeouts,
    Upstream,
)

names = st.text(min_size=1, max_size=8)
lists = st.none() | st.lists(names, min_size=1, max_size=3).map(tuple)
shares = st.floats(0, 1)
durations = st.floats(0.001, 1e6)
sizes = st.integers(1, 2**40)
secrets = st.none() | st.builds(Secret, env=st.just("NAME"), value=names) | st.builds(
    Secret, file=st.just(Path("/run/key")), value=names
)  # fmt: skip
upstreams = st.builds(
    Upstream,
    url=st.sampled_from(["https://api.openai.com/v1", "http://127.0.0.1:8000/v1"]),
    key=secrets,
    headers=st.dictionaries(names, names, max_size=2),
    auth=st.sampled_from(["bearer", "api-key", "x-api-key", "none"]),
)
deployments = st.builds(Deployment, upstream=names, model=st.none() | names, weight=st.floats(0.001, 1e3))
models = st.builds(Model, deployments=st.lists(deployments, min_size=1, max_size=2).map(tuple))
prices = st.builds(
    Price, input=st.none() | st.decimals(0, 1000, places=9), output=st.none() | st.integers(0, 100).map(Decimal)
)
addresses = st.builds(Address, host=st.sampled_from(["127.0.0.1", "::1", "0.0.0.0"]), port=st.integers(0, 65535))
files = st.builds(
    DeploymentFile,
    version=st.just(1),
    listen=addresses,
    ops=st.none() | addresses,
    admin=st.none(),
    home=st.just(Path("/var/lib/weir")),
    upstreams=st.dictionaries(names, upstreams, min_size=1, max_size=2),
    models=st.dictionaries(names, models, max_size=2),
    limits=st.builds(Limits, body_bytes=sizes, nesting=st.integers(1, 1000)),
    timeouts=st.builds(Timeouts, total_s=durations, connect_s=durations),
    prices=st.dictionaries(names, st.lists(prices, min_size=1, max_size=2).map(tuple), max_size=1),
)
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
conditions = st.builds(
    Conditions,
    team=lists,
    model=lists,
    tools=st.none() | st.booleans(),
    size=st.none() | st.just(("> 1 KiB", "4 KiB - 1 MiB")),
    time=st.none() | st.just(("mon-fri 22:00-06:00",)),
)
entries = st.builds(
    PolicyEntry,
    use=names,
    name=names,
    match=conditions,
    unless=conditions,
    mode=st.sampled_from(["off", "observe", "on"]),
    rollout=shares,
    holdout=shares,
    options=st.dictionaries(names, json_values, max_size=2),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin"]),
)
keys = st.builds(
    Key,
    id=names,
    sha256=st.just("0a" * 32),
    expires=st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
configurations = st.builds(
    Configuration,
    deployment=files,
    policies=st.lists(entries, max_size=2).map(tuple),
    teams=st.none() | st.builds(TeamsFile, version=st.just(1), keys=st.lists(keys, max_size=2).map(tuple)),
)


@settings(max_examples=60, deadline=None)
@given(configurations)
def test_the_round_trip(configuration: Configuration) -> None:
    """JSON carries every configuration exactly: shares, durations, prices, keys, options."""
    again = Configuration.model_validate_json(configuration.model_dump_json())
    assert again == configuration
    assert [entry.fingerprint for entry in again.policies] == [entry.fingerprint for entry in configuration.policies]
    revealed = [upstream.key and upstream.key.reveal() for upstream in configuration.deployment.upstreams.values()]
    assert [upstream.key and upstream.key.reveal() for upstream in again.deployment.upstreams.values()] == revealed


@settings(max_examples=30, deadline=None)
@given(configurations)
def test_a_key_never_shows(configuration: Configuration) -> None:
    """No form meant for people holds a key, whatever else it holds."""
    key = Secret(env="NAME", value="sk-canary-7f3a")
    upstream = configuration.deployment.upstreams
    secret = {name: one.model_copy(update={"key": key}) for name, one in upstream.items()}
    changed = configuration.model_copy(
        update={"deployment": configuration.deployment.model_copy(update={"upstreams": secret})}
    )
    assert "canary" not in f"{changed!r} {changed.deployment!r} {secret!r} {key} {changed.shown()}"
    assert "canary" in changed.model_dump_json()


def test_a_worker_imports_little() -> None:
    """The models come without YAML and without what reads files."""
    code = (
        "import proxy.config, sys; print([m for m in ('yaml', 'proxy.config.loading', 'aiohttp') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
