"""The table of faults: every row of what an upstream can do wrong, by the name that asks for it.

A request asks with `x-sim-fault: NAME[:ARG[:ARG]]` (several separated by commas), a scenario with a rule. `row` is the
number in the list of upstream faults of the reference; rows without a number are the simulator's own.
"""

from __future__ import annotations

from proxy.simulator.faults import editing, refusing, spoiling
from proxy.simulator.faults.refusing import refusing as status
from proxy.simulator.faults.terms import Case, Dialect, Fault
from proxy.simulator.playing import Act
from proxy.simulator.speech.terms import UsageForm

_CONTEXT = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens."
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_SERVER = "The server had an error while processing your request."
_INVALID = "invalid_request_error"
_EARLY = "`early`: before the body is read; `billed`: although it is charged"

_TABLE = (
    Fault("1", "refuse", "connection refused", how="a closed port: `refused_url()`"),
    Fault("2", "dns", "a name that does not resolve", how="`http://upstream.invalid/v1`"),
    Fault("3", "blackhole", "SYNs are dropped", how="a full accept queue: `BlackHole()`"),
    Fault("4", "bad-certificate", "a certificate of the wrong name, time or authority", how="`Authority().issue(…)`"),
    Fault("5-6", "rate-limit", "429 with Retry-After", "seconds (2); `-`: no header", refuse=refusing.rate_limit),
    Fault(
        "7",
        "quota",
        "429 insufficient_quota",
        refuse=status(429, _QUOTA, type="insufficient_quota", code="insufficient_quota"),
    ),
    Fault(
        "8",
        "unauthorized",
        "401: our key is wrong",
        refuse=status(401, "Incorrect API key provided.", type=_INVALID, code="invalid_api_key"),
    ),
    Fault(
        "8",
        "forbidden",
        "403: our key may not",
        refuse=status(403, "You are not allowed to sample from this model.", type="permission_error", code="forbidden"),
    ),
    Fault(
        "9",
        "bad-request",
        "400",
        refuse=status(400, "Invalid value for 'temperature'.", type=_INVALID, param="temperature"),
    ),
    Fault(
        "9", "not-found", "404", refuse=status(404, "The model does not exist.", type=_INVALID, code="model_not_found")
    ),
    Fault("9", "unprocessable", "422", refuse=status(422, "The request could not be processed.", type=_INVALID)),
    Fault(
        "10",
        "context-length",
        "400 context_length_exceeded",
        refuse=status(400, _CONTEXT, type=_INVALID, code="context_length_exceeded", param="messages"),
    ),
    Fault("11", "error-500", "500", _EARLY, refuse=status(500, _SERVER, type="server_error")),
    Fault("11", "error-502", "502", _EARLY, refuse=status(502, "Bad gateway.", type="server_error")),
    Fault("11", "error-503", "503", _EARLY, refuse=status(503, "The engine is overloaded.", type="server_error")),
    Fault("12", "overloaded-529", "529", refuse=status(529, "Overloaded", type="overloaded_error")),
    Fault("13", "no-headers", "never an answer", "seconds: only late", spoil=spoiling.no_headers),
    Fault("14", "reset-after-request", "RST instead of an answer", "`close`: FIN", spoil=spoiling.reset_after_request),
    Fault(
        "15",
        "close-idle",
        "the kept-alive connection is closed",
        "`next`: by the next request",
        spoil=spoiling.close_idle,
    ),
    Fault(
        "16",
        "first-event-error",
        "200, the first event is an error",
        "its code (server_error)",
        edit=editing.first_event_error,
    ),
    Fault("17", "mid-error", "an error event in mid-stream", "after N events (3)", edit=editing.mid_error),
    Fault(
        "18", "eof-no-done", "a clean end without the terminal event", "after N events (all)", edit=editing.eof_no_done
    ),
    Fault("19", "cut-chunk", "FIN in the middle of a chunk", "after N events (3)", spoil=spoiling.cut(Act.CLOSE)),
    Fault("19", "rst", "RST in the middle of a chunk", "after N events (3)", spoil=spoiling.cut(Act.RESET)),
    Fault("20", "stall", "silence in mid-stream", "after N events (3): seconds (for ever)", edit=editing.stall),
    Fault(
        "20",
        "heartbeat",
        "comments before the first token",
        "how many (3): seconds between (0.02)",
        edit=editing.heartbeat,
    ),
    Fault("21", "drip", "one byte at a time", "seconds between (1)", spoil=spoiling.drip),
    Fault("22", "half-open", "neither reads nor writes nor closes", "after N events (1)", spoil=spoiling.half_open),
    Fault("23", "malformed-event", "an event of broken JSON", "after N events (3)", edit=editing.malformed_event),
    Fault("24", "huge-event", "an event over the limit", "MiB (17): after N events (2)", edit=editing.huge_event),
    Fault("25", "crlf", "events end in CRLF", edit=editing.line_ends(b"\r\n")),
    Fault("25", "cr", "events end in CR", edit=editing.line_ends(b"\r")),
    Fault("25", "no-space", "`data:` without a space", edit=editing.no_space),
    Fault("25", "several-data-lines", "an event's JSON over two data lines", edit=editing.several_data_lines),
    Fault("25", "joined", "several events in one write", "N events (all)", edit=editing.joined),
    Fault("25", "split-every", "writes of N bytes", "N (1)", spoil=spoiling.split_every),
    Fault("25", "split-utf8", "writes end within characters", spoil=spoiling.split_utf8),
    Fault("26", "after-done", "an event after the terminal one", edit=editing.after_done),
    Fault("27", "no-last-blank", "the last event without its blank line", edit=editing.no_last_blank),
    Fault("28", "html-200", "200 with an HTML page", refuse=refusing.html),
    Fault("28", "empty-200", "200 with no body", refuse=refusing.empty),
    Fault("29", "truncated-json", "half of the JSON, with its length", edit=editing.truncated_json),
    Fault("29", "wrong-length", "Content-Length too long, then FIN", "`short`: too short", edit=editing.wrong_length),
    Fault("30", "gzip-bomb", "a small gzip body of many MiB", "MiB (256)", edit=editing.gzip_bomb),
    Fault("30", "unknown-encoding", "a Content-Encoding that is none", "its name", edit=editing.unknown_encoding),
    Fault("30", "gzip", "a proper gzip answer (streams too)", edit=editing.zipped),
    Fault("31", "no-usage", "usage is absent", usage=UsageForm.ABSENT),
    Fault("31", "negative-usage", "usage is negative", usage=UsageForm.NEGATIVE),
    Fault("31", "huge-usage", "usage is 2^63", usage=UsageForm.HUGE),
    Fault("32", "repeated-usage", "usage is told twice", usage=UsageForm.REPEATED),
    Fault("32", "usage-in-last-choice-chunk", "usage beside a non-empty choice", usage=UsageForm.WITH_CHOICE),
    Fault("33", "redirect", "302 with Location", "status (302): location", refuse=refusing.redirect),
    Fault("34", "set-cookie", "Set-Cookie and hop-by-hop fields", edit=editing.set_cookie),
    Fault(
        "34",
        "header-crlf",
        "a header field that is none",
        "obs-fold, bare-lf, bare-cr, bad-name, space-colon, nul or no-colon (obs-fold)",
        edit=editing.bad_header,
    ),
    Fault("35", "client-leaves", "seen, billed and reported", how="`GET /sim/state`, `departures`"),
    Fault("-", "rejects-stream-options", "400 for stream_options", refuse=refusing.rejects_stream_options),
    Fault("-", "informational", "103 before the answer", edit=editing.informational),
    Fault("-", "trailers", "a chunked answer with trailers", edit=editing.trailers),
    Fault("-", "close-delimited", "a body that ends with the connection", edit=editing.until_close),
    Fault("-", "chunked", "a unary answer in chunks", edit=editing.chunked),
)

FAULTS = {fault.name: fault for fault in _TABLE}


def parse(text: str) -> list[tuple[Fault, tuple[str, ...]]]:
    """The faults that a header or a rule names, with their arguments. Raises ValueError."""
    chosen = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, *arguments = part.split(":")
        if name not in FAULTS or FAULTS[name].how:
            raise ValueError(f"{name!r} is not a fault of requests; `weir simulate --list-faults` names them")
        chosen.append((FAULTS[name], tuple(arguments)))
    return chosen


def table() -> str:
    """The faults as a Markdown table."""
    lines = ["| row | fault | what happens | argument (default) |", "|---|---|---|---|"]
    lines += [f"| {f.row} | `{f.name}` | {f.text} | {f.argument or f.how} |" for f in _TABLE]
    return "\n".join(lines)


__all__ = ["FAULTS", "Case", "Dialect", "Fault", "parse", "table"]
