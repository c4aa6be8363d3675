"""Webhooks: what policies have to tell goes out from here, since workers make no cold calls.

Rules: a POST of JSON, signed where there is a secret; three tries, seconds apart, as long as the other end fails (5xx,
429) or can't be reached; any other answer is an answer. What comes back is read no further than its status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import aiohttp

TIMEOUT_S: Final = 10.0
PAUSES_S: Final = (1.0, 5.0)


async def post(
    url: str, body: str, signature: str = "", sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Mapping[str, Any]:
    """`{"status": 204}`, or 0 where nobody could be reached."""
    headers = {"content-type": "application/json", **({"x-weir-signature": signature} if signature else {})}
    status = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        for pause_s in (*PAUSES_S, None):
            status = await _once(session, url, body, headers)
            if pause_s is None or (status and status != 429 and status < 500):
                break
            await sleep(pause_s)
    return {"status": status}


async def _once(session: aiohttp.ClientSession, url: str, body: str, headers: Mapping[str, str]) -> int:
    try:
        async with session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0
