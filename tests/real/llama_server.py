"""llama.cpp's own HTTP server as a process of its own: `python llama_server.py MODEL.gguf chat|embedding`.

It listens on an ephemeral port of 127.0.0.1, logs "listening on …" to standard error, and serves until it is ended.
"""

from __future__ import annotations

import signal
import sys

import xllamacpp

SLOTS = 2
TOKENS_A_SLOT = (
    32_768  # long enough that a full prompt takes seconds to read, so that a client can leave before the first token
)


def parameters(path: str, mode: str) -> xllamacpp.CommonParams:
    """One thread, no warm-up, no cache that outlives a request: light, and the same answer to the same question."""
    chosen = xllamacpp.CommonParams()
    chosen.model.path = path
    chosen.model_alias = {"tiny-random"}
    chosen.hostnames, chosen.port = ["127.0.0.1"], 0
    chosen.n_parallel, chosen.n_ctx = SLOTS, SLOTS * TOKENS_A_SLOT
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1
    chosen.n_threads_http = 8
    chosen.n_batch = chosen.n_ubatch = 256  # between two batches it looks at its queue: cancellations, metrics
    chosen.ctx_shift = True  # an answer without a cap never ends: what a cancelled client leaves behind
    chosen.cache_ram_mib = 0
    chosen.warmup = False
    chosen.use_jinja = True  # the template of the model decides, and tools get their grammar from it
    chosen.ui = False
    chosen.fit_params = False
    chosen.endpoint_metrics = True
    if mode == "embedding":
        chosen.embedding = True
        chosen.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return chosen


def main(path: str, mode: str) -> None:
    server = xllamacpp.Server(parameters(path, mode))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server  # which ends it


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(*sys.argv[1:])
