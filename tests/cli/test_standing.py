"""What `weir status` says of deployments."""

from __future__ import annotations

import pytest

from proxy.admin.operated import DeploymentStatus, Status, WorkerStatus
from proxy.cli.operate import standing


def status(*deployments: DeploymentStatus, workers: int = 2) -> Status:
    return Status(
        version="1",
        pid=1,
        uptime_s=1.0,
        ready=True,
        draining=False,
        bypass=False,
        config_hash="h",
        config_valid=True,
        problems=(),
        home="/home",
        listen=("127.0.0.1:1",),
        ops=None,
        admin=None,
        workers_wanted=workers,
        workers=tuple(WorkerStatus(index, index + 2, True, "h", 1.0) for index in range(workers)),
        restarts=0,
        keys=0,
        deployments=deployments,
    )


def test_who_is_well_and_who_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number, then a line for each that some workers don't call, with how many those are."""
    monkeypatch.setenv("NO_COLOR", "1")
    text = standing(
        status(
            DeploymentStatus("gpt-4o", "azure#1/gpt-4o", {"ok": 2}, 3),
            DeploymentStatus("gpt-4o", "azure#2/gpt-4o", {"ok": 1, "key_aside": 1}, 0),
            DeploymentStatus("gpt-4o", "openai/gpt-4o", {"open": 2}, 0),
        )
    )
    assert "models   1 of 3 deployments ok" in text
    assert "gpt-4o: azure#2/gpt-4o is key aside in 1 of 2 workers" in text
    assert "gpt-4o: openai/gpt-4o is open in 2 of 2 workers" in text
    assert "azure#1" not in text


def test_nothing_known_nothing_said() -> None:
    """A supervisor whose workers haven't told yet says nothing."""
    assert "models" not in standing(status())
