"""Several keys of an upstream and several deployments of a model, as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.config import ConfigurationError, load

GUIDE = Path(__file__).parents[2] / "docs/guide/deployments.md"
KEYS = {"AZURE_KEY_1": "sk-canary-1", "AZURE_KEY_2": "sk-canary-2", "OPENAI_API_KEY": "sk-canary-3"}


def written(directory: Path, text: str) -> Path:
    path = directory / "weir.yaml"
    path.write_text(text)
    return path


def test_the_guides_example(tmp_path: Path) -> None:
    """It is sound as it stands there."""
    (example,) = re.findall(r"(?s)```yaml\n(.*?)```", GUIDE.read_text())
    found = load(written(tmp_path, example), KEYS)
    assert not found.warnings
    assert found.deployment.models["llama"].balance == "prefix-affinity"
    assert len(found.deployment.upstreams["azure"].secrets) == 2
    assert found.deployment.models["llama"].deployments[0].max_concurrent == 64


def test_keys_from_variables_and_files(tmp_path: Path) -> None:
    """Each is resolved as a single one is, its file is watched, and none is shown."""
    (tmp_path / "key").write_text("sk-canary-file\n")
    text = 'version: 1\nupstreams:\n  up: {url: "https://a.example/v1", keys: ["${AZURE_KEY_1}", {file: key}]}\n'
    found = load(written(tmp_path, text), KEYS)
    assert [secret.reveal() for secret in found.deployment.upstreams["up"].secrets] == ["sk-canary-1", "sk-canary-file"]
    assert tmp_path / "key" in found.watched
    shown = found.shown()
    assert shown["deployment"]["upstreams"]["up"]["keys"][0] == "${AZURE_KEY_1}"
    assert "canary" not in repr(found) + repr(shown) + str(found.deployment)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ('key: "${AZURE_KEY_1}", keys: ["${AZURE_KEY_2}"]', "key and keys say the same"),
        ("keys: [sk-inline]", "a key can't be written into the file"),
        ('keys: ["${NOBODY_SET_THIS}"]', "NOBODY_SET_THIS"),
        ("keys: [{file: missing}]", "missing"),
        ('keys: "${AZURE_KEY_1}"', "keys"),
    ],
)
def test_mistakes(tmp_path: Path, keys: str, complaint: str) -> None:
    """Each is told, and no key is repeated."""
    text = f'version: 1\nupstreams:\n  up: {{url: "https://a.example/v1", {keys}}}\n'
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, text), KEYS)
    told = "\n".join(map(str, caught.value.problems))
    assert complaint in told
    assert "sk-" not in told


def test_a_changed_key_is_another_configuration(tmp_path: Path) -> None:
    """A key file that changes makes a reload take the new key."""
    (tmp_path / "key").write_text("sk-canary-old")
    path = written(tmp_path, 'version: 1\nupstreams:\n  up: {url: "https://a.example/v1", keys: [{file: key}]}\n')
    before = load(path, {})
    (tmp_path / "key").write_text("sk-canary-new")
    after = load(path, {})
    assert before.hash != after.hash
    assert before.deployment.upstreams["up"] != after.deployment.upstreams["up"]
