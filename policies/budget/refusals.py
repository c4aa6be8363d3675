"""What a client is told when a budget refuses: the scope, the limit, what is used, and when it begins anew. Pure."""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

from policies.budget.accounts import Account, Line, header, resets, spent_text
from policies.budget.limits import NANO
from proxy.errors import INVALID, NO_RETRY, OVERLOADED, RATE_LIMIT, WeirError

QUOTA: Final = "insufficient_quota"  # OpenAI's word for it, as type and as code
_HEADER: Final = b"x-weir-budget"


def spent(
    name: str,
    account: Account,
    line: Line,
    used: int,
    zone: ZoneInfo,
    now_ns: int,
    retry_ns: int = 0,
    limit_share: float = 1.0,
    asked: int = 0,
) -> WeirError:
    """The budget is used up, or this request doesn't fit what is left: waiting for others can't help."""
    whole = f"{line.limit}" if limit_share >= 1 else f"{limit_share * 100:g}% of {line.limit}"
    when = f" It resets on {resets(line, zone)}." if line.scope.ends_ns else ""
    rest = line.limit.amount - used
    taken = f"{spent_text(line, used)} of {whole} are used"
    if rest <= 0 or limit_share < 1:
        message = f"The budget `{name}` of {account.shown} is spent: {taken}.{when}"
    else:
        may = f"it may take up to {spent_text(line, asked)}" if asked else "it may take more than is left"
        message = (
            f"The budget `{name}` of {account.shown} has too little left for this request: {taken}, and {may}. "
            f"A smaller `max_tokens` lowers that.{when}"
        )
    wait_ns = retry_ns or (line.scope.ends_ns - now_ns if line.scope.ends_ns else 0)
    return WeirError(
        429,
        message,
        type=QUOTA,
        code=QUOTA,
        headers=(
            *([(b"retry-after", b"%d" % -(-wait_ns // NANO))] if wait_ns > 0 else []),
            NO_RETRY,
            (_HEADER, header(account, line, used, zone)),
        ),
    )


def reserved(
    name: str, account: Account, line: Line, used: int, held: int, zone: ZoneInfo, waited_s: float
) -> WeirError:
    """The rest is reserved by requests that run; it will be free, wholly or in part, when they are settled."""
    message = (
        f"The rest of the budget `{name}` of {account.shown} is reserved by requests that are running: "
        f"{spent_text(line, used)} of {line.limit} are used, {spent_text(line, held)} reserved. "
        f"It did not become free within {waited_s:g} s."
    )
    headers = ((b"retry-after", b"2"), (_HEADER, header(account, line, used, zone)))
    return WeirError(429, message, type=RATE_LIMIT, code="budget_reserved", headers=headers)


def unpriced(name: str, model: str) -> WeirError:
    """No price is known, so no dollar can be promised."""
    if not model:
        message = f"The request names no model, so it has no price, and the budget `{name}` is hard."
    else:
        message = (
            f"The price of the model `{model[:200]}` isn't known, and the budget `{name}` is hard: "
            "a request that can't be priced is refused. Its price can be given in the deployment file."
        )
    return WeirError(403, message, type=INVALID, code="unpriced_model", param="model", headers=(NO_RETRY,))


def unbounded(name: str, model: str) -> WeirError:
    """Nothing says how much it can cost at most."""
    message = (
        f"Nothing bounds what this request to `{model[:200]}` can cost (a tool that the provider runs, a file, stored "
        f"context, or no known maximum of the answer), and the budget `{name}` is hard. Set max_tokens, or drop it."
    )
    return WeirError(403, message, type=INVALID, code="unbounded_cost", headers=(NO_RETRY,))


def unpriced_endpoint(name: str, endpoint: str) -> WeirError:
    """What this endpoint costs isn't told here."""
    message = f"What `{endpoint}` costs isn't known when it is asked for, and the budget `{name}` is hard."
    return WeirError(403, message, type=INVALID, code="unpriced_endpoint", headers=(NO_RETRY,))


def unavailable(name: str) -> WeirError:
    """The Store can't be asked."""
    message = f"How much of the budget `{name}` is used can't be found out at the moment."
    return WeirError(503, message, type=OVERLOADED, code="budget_unavailable", headers=((b"retry-after", b"1"),))
