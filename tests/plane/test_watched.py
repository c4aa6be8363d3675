"""What a guardrail counts in the data plane."""

from __future__ import annotations

import msgspec

from policies import allow, headers
from proxy.metrics import Snapshot, arms_of
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import entry

BANDS = {"over_control": {"error_rate": "1%", "spend": 1.5}}


async def test_both_arms_are_counted(serve: Serve, simulator: Simulator) -> None:
    """Each exchange is in the arm that its conversation was drawn for, with its failure and its cost; the ledger's
    notes say the same."""
    policy = entry("headers", name="h", holdout=0.5, guardrail=BANDS, request={"remove": ["x-a"]})
    async with serve(policies=[policy], registry={"headers": headers}) as plane:
        for number in range(20):
            await plane.chat(f"x-weir-conversation: c{number}", fault="error-500" if number % 5 == 0 else "")
        ended, settled = plane.journal("ended"), plane.journal("settled")
        found = arms_of([msgspec.convert(plane.metrics.snapshot(), Snapshot)])
    noted = {"treated": "treated", "control": "holdout"}
    assert {(policy, arm) for policy, _, arm in found} == {("h", "treated"), ("h", "control")}
    for (_, _, arm), tally in found.items():
        mine = [record for record in ended if record["decisions"][0]["action"] == noted[arm]]
        ids = {record["exchange"] for record in mine}
        assert tally.exchanges == len(mine) > 0
        assert tally.failed == sum(record["status"] >= 400 for record in mine)
        assert tally.nanodollars == sum(one["nanodollars"] or 0 for one in settled if one["exchange"] in ids)
        assert sum(tally.slow) == tally.exchanges
    assert sum(tally.exchanges for tally in found.values()) == 20
    assert sum(tally.failed for tally in found.values()) == 4
    assert sum(tally.nanodollars for tally in found.values()) > 0


async def test_nothing_is_counted_without_one(serve: Serve) -> None:
    """Where no entry has a guardrail there is nothing to count, and the layer is the policy's own call."""
    policies = [entry("headers", request={"remove": ["x-a"]}), entry("allow", models=["*"])]
    async with serve(policies=policies, registry={"headers": headers, "allow": allow}) as plane:
        await plane.chat()
        assert not plane.plane.metrics.snapshot()["arms"]
        assert [item.watched for item in plane.plane.state.chain.built] == [None, None]
