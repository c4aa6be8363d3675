"""The tier that served an answer, as far as it moves the price."""

from __future__ import annotations

import pytest

from proxy.dialects import read_unary, stream_reader


@pytest.mark.parametrize(
    ("usage", "tier"),
    [
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"batch"}', "batch"),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"standard","speed":"standard"}', "standard"),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"standard","speed":"fast"}', "fast"),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":7}', None),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"batch","inference_geo":"us"}', "batch@us"),
        (b'{"input_tokens":1,"output_tokens":1,"speed":"fast","inference_geo":"us"}', "fast@us"),
        (b'{"input_tokens":1,"output_tokens":1,"inference_geo":"us"}', "standard@us"),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"standard","inference_geo":"global"}', "standard"),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"standard","inference_geo":"not_available"}', "standard"),
        (b'{"input_tokens":1,"output_tokens":1,"service_tier":"standard","inference_geo":null}', "standard"),
    ],
)
def test_messages(usage: bytes, tier: str | None) -> None:
    """Claude's fast mode and region stand beside the tier, and count as one, whole or streamed."""
    assert read_unary("anthropic", b'{"type":"message","usage":%b}' % usage).service_tier == tier
    reader = stream_reader("anthropic")
    reader.event(b'{"type":"message_start","message":{"model":"claude-opus-5","usage":%b}}' % usage)
    assert reader.reading.service_tier == tier
