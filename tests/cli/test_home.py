"""Which home directory a command means, where the deployment file says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.home import home_of
from proxy.cli.output import CommandError

UPSTREAM = b"upstreams: {up: {url: 'http://127.0.0.1:9/v1', key: '${NOT_SET_HERE}'}}\n"


def test_variables_in_home_are_read_as_the_proxy_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are made where the proxy looks for them; a secret that isn't set is none of this command's business."""
    monkeypatch.setenv("DATA_OF_WEIR", str(tmp_path / "data"))
    file = tmp_path / "weir.yaml"
    file.write_bytes(b"version: 1\nhome: ${DATA_OF_WEIR}/weir\n" + UPSTREAM)
    assert home_of(None, file) == tmp_path / "data" / "weir"
    file.write_bytes(b"version: 1\nhome: beside\n" + UPSTREAM)
    assert home_of(None, file) == tmp_path / "beside"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version: 1\nhome: ${NOT_SET_HERE}/weir\n", "the environment variable NOT_SET_HERE isn't set"),
        (b"version: 1\nhome: caf\xe9\n", "the file isn't UTF-8"),
        (b"home: [", "weir.yaml:1:8: error"),
    ],
)
def test_a_home_that_cannot_be_read_is_said_and_not_guessed(tmp_path: Path, content: bytes, said: str) -> None:
    """No directory is made up."""
    file = tmp_path / "weir.yaml"
    file.write_bytes(content)
    with pytest.raises(CommandError, match="name it by --home") as raised:
        home_of(None, file)
    assert said in str(raised.value)
