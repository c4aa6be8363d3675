"""Everything that is not a prepared answer: models, files, stored responses, and the 404 of all else."""

from __future__ import annotations

from proxy.simulator.incoming import Incoming
from proxy.simulator.reply import Reply, jsonly
from proxy.simulator.roster import Roster
from proxy.simulator.speech.terms import Refusal


class Shelf:
    """What the provider keeps for its clients."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def receive(self, request: Incoming) -> None:
        """The head of a request is here: choose where its body goes."""

    def keep(self, path: str, request: Incoming, reply: Reply) -> None:
        """An answer was made that may be asked for again."""

    def close(self) -> None:
        """Let go of everything."""

    def reply(self, request: Incoming, path: str) -> Reply:
        if request.method == "GET" and path == "models":
            listed = [
                {"id": name, "object": "model", "created": 1_735_689_600, "owned_by": m.owner}
                for name, m in self._roster.models.items()
            ]
            return jsonly({"object": "list", "data": listed})
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")
