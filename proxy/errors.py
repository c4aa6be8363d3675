"""The errors that clients see, in OpenAI's form, each with its HTTP status.

Every failure that reaches a client is a `WeirError`. It is raised where the cause is known and written to the wire
once, at the edge (`proxy.worker`). Nothing in it may carry a key or a body.
"""

from __future__ import annotations

import orjson

INVALID = "invalid_request_error"
AUTHENTICATION = "authentication_error"
PERMISSION = "permission_error"
RATE_LIMIT = "rate_limit_error"
UPSTREAM = "upstream_error"
OVERLOADED = "overloaded_error"

NO_RETRY = (b"x-should-retry", b"false")


class WeirError(Exception):
    """A refusal or a failure, as `{"error": {"message", "type", "param", "code"}}` with an HTTP status.

    `headers` are added to the answer (for example `retry-after`, or `x-should-retry: false` where a replay could bill
    twice). `close` closes the client's connection after the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = headers
        self.close = close
        self.typed = False  # told to one of Anthropic's clients
        self.billed: bool | None = None  # of a failed attempt: whether it may have been; None where none was made

    def body(self) -> bytes:
        """The JSON body; also the payload of an in-band error event of a stream."""
        if self.typed:
            return self.body_with_type()
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def body_with_type(self) -> bytes:
        """The same for Anthropic's clients, which look for a `type` beside `error`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"type": "error", "error": error})

    def let_go(self) -> None:
        """Forgets the frames that it passed. They hold the exchange, which holds the error: once it has been told,
        nobody needs them, and only the collector, which runs rarely here, would free them."""
        self.__traceback__ = self.__context__ = self.__cause__ = None

    def __repr__(self) -> str:
        return f"<WeirError {self.status} {self.code or self.type}: {self.message}>"
