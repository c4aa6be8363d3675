"""What a provider's own tools did in one response: searches, file searches, containers of the code interpreter.

Rules: pure. Counted from the response's items, as they come in a stream and as they stand in the whole; of both the
larger counts, since either may be cut short.

1. A search by the preview of the tool may cost more: which one it is, the response's list of tools says.
2. Of web search calls those that search are charged, not those that open a page that was found, or look into one.
   https://developers.openai.com/api/docs/guides/deep-research
3. A container is charged once, however often code ran in it.
4. Where the response says itself how often it searched (`tool_usage`), that counts.
5. What images made on the way cost isn't told with the response's tokens: its cost counts as estimated.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from proxy.dialects.usage import Usage

_FREE: Final = ("open_page", "find_in_page")


class Item(msgspec.Struct, gc=False):
    """One item of a response's output, as far as it moves money."""

    type: str | None = None
    action: Any = None
    container_id: str | None = None


class _Searches(msgspec.Struct, gc=False):
    num_requests: int | None = None


class ToolUsage(msgspec.Struct, gc=False):
    """What some responses say of their tools."""

    web_search: _Searches | None = None


class Tool(msgspec.Struct, gc=False):
    """A tool that the model was given."""

    type: str | None = None


class Calls:
    """The calls of one response."""

    __slots__ = ("_containers", "_unnamed", "files", "images", "preview", "said", "searches")

    def __init__(self) -> None:
        self.searches = self.files = self.images = self._unnamed = 0
        self.said: int | None = None
        self.preview = False
        self._containers: set[str] = set()

    def add(self, item: Item) -> None:
        """One item that is complete."""
        if item.type == "web_search_call":
            self.searches += not (isinstance(item.action, dict) and item.action.get("type") in _FREE)
        elif item.type == "file_search_call":
            self.files += 1
        elif item.type == "code_interpreter_call":
            if item.container_id is None:
                self._unnamed = 1
            else:
                self._containers.add(item.container_id)
        elif item.type == "image_generation_call":
            self.images += 1

    @property
    def sessions(self) -> int:
        """Containers that code ran in."""
        return len(self._containers) or self._unnamed

    def __bool__(self) -> bool:
        return bool(self.searches or self.files or self.images or self.sessions)


def calls_of(items: list[Item] | None, told: ToolUsage | None, given: list[Tool] | None) -> Calls:
    """The calls of a whole response, with the tools that it was given."""
    calls = Calls()
    calls.preview = any(tool.type is not None and tool.type.startswith("web_search_preview") for tool in given or ())
    for item in items or ():
        calls.add(item)
    if told is not None and told.web_search is not None and (said := told.web_search.num_requests) is not None:
        calls.searches = calls.said = max(0, said)
    return calls


def with_calls(usage: Usage | None, *found: Calls) -> Usage | None:
    """Usage with what tools did; of several counts the largest."""
    if usage is None or not any(found):
        return usage
    given: Any = usage.given
    said = next((calls.said for calls in found if calls.said is not None), None)
    searches = max(usage.searches, *(calls.searches for calls in found)) if said is None else said
    return msgspec.structs.replace(
        usage,
        searches=searches,
        preview_searches=searches if any(calls.preview for calls in found) else 0,
        file_searches=max(calls.files for calls in found),
        code_sessions=max(calls.sessions for calls in found),
        given=orjson.loads(bytes(given)) if isinstance(given, msgspec.Raw) else given,
        clamped=usage.clamped or any(calls.images for calls in found),
    )
