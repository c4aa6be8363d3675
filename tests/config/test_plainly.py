"""Files read for their values only, and what one load leaves to the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import ConfigurationError
from proxy.config.loading import Kept, load
from proxy.config.source import read

DEPLOYMENT = """
version: 1
upstreams: {openai: {url: https://api.openai.com/v1}}
teams: teams.yaml
keys: required
"""
TEAMS = "version: 1\nteams: {search: {cost_centre: 4711}}\n"
PLAIN = [
    "a: 1\nb: [yes, no, 22:00, 1.10, 1.5, 007, -3, ~, null, True, '*', \"&x\"]\n",
    "c:\n  - d: gpt-4o*\n    e: |\n      text\n",
    "a: {b: , c: ''}\n# R&D, and 100 % of it\nd: x!y\ne: 12345678901234567890\n",
    "- 1\n- [2, {a: 3}]\n",
]
MORE = {
    "a variable": "a: ${NAME}\n",
    "an alias": "a: &x {b: 1}\nc: *x\n",
    "a merge": "a: &x {b: 1}\nc: {<<: *x}\n",
    "a tag": "a: !!str 1\n",
    "a key twice": "a: 1\na: 2\n",
    "a key that is none": "{[a]: 1}\n",
}


@pytest.mark.parametrize("text", PLAIN)
def test_the_same_values_and_places(text: str) -> None:
    """Values read alone are those read with their places, and places that are asked for later are the same."""
    fast, slow = read("f", text.encode(), {}), read("f", text.encode(), {}, places=True)
    assert fast.plain == text and slow.plain is None
    assert repr(fast.data) == repr(slow.data)  # so that 1, 1.0 and True differ
    assert (fast.values, fast.keys, fast.problems) == (slow.values, slow.keys, slow.problems)


@given(
    st.recursive(
        st.text(max_size=8) | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.booleans(),
)
def test_whatever_is_written(data: object, flow: bool) -> None:
    """Both ways of reading agree on everything that a YAML library writes."""
    content = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True).encode()
    fast, slow = read("f", content, {}), read("f", content, {}, places=True)
    assert repr(fast.data) == repr(slow.data)
    assert (fast.values, fast.keys) == (slow.values, slow.keys)
    assert [str(one) for one in fast.problems] == [str(one) for one in slow.problems]


@pytest.mark.parametrize("name", MORE)
def test_what_needs_places(name: str) -> None:
    """What isn't plain is read by the reader that knows places, which says what is wrong with it."""
    env = {"NAME": "n"}
    fast, slow = read("f", MORE[name].encode(), env), read("f", MORE[name].encode(), env, places=True)
    assert fast.plain is None
    assert (fast.data, fast.problems) == (slow.data, slow.problems)


def test_an_unchanged_teams_file_is_taken_over(tmp_path: Path) -> None:
    """A reload reads thousands of keys again only if their file changed; a broken one is reported each time, and a
    repaired one counts."""
    (tmp_path / "weir.yaml").write_text(DEPLOYMENT)
    teams = tmp_path / "teams.yaml"
    teams.write_text(TEAMS)
    kept = Kept()

    def loaded() -> object:
        return load(tmp_path / "weir.yaml", {}, kept=kept)

    first = load(tmp_path / "weir.yaml", {}, kept=kept)
    again = load(tmp_path / "weir.yaml", {}, kept=kept)
    assert again.teams is first.teams and again.hash == first.hash == load(tmp_path / "weir.yaml", {}).hash
    teams.write_text(TEAMS.replace("4711", "4712"))
    other = load(tmp_path / "weir.yaml", {}, kept=kept)
    assert other.teams is not None and other.teams.teams["search"].cost_centre == "4712" and other.hash != first.hash
    teams.write_text(TEAMS.replace("cost_centre", "cost_center"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="cost_cent"):
            loaded()
    teams.write_text(TEAMS)
    assert load(tmp_path / "weir.yaml", {}, kept=kept).hash == first.hash
