"""What an answer used, in tokens of each kind: the numbers that the answer reports and that the invoice adds up."""

from __future__ import annotations

import msgspec


class Tally(msgspec.Struct):
    """Tokens of one answer. `input` includes cached and cache-written ones, `output` includes reasoning."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    input_audio: int = 0
    input_image: int = 0
    output_image: int = 0
    output_audio: int = 0

    def upto(self, output: int) -> Tally:
        """The part that is billed when the answer was cut after `output` tokens."""
        made = min(output, self.output)
        return msgspec.structs.replace(self, output=made, reasoning=min(self.reasoning, made))
