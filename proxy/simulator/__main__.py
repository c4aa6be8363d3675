"""`python -m proxy.simulator`: the simulator as a process, with nothing else of the program."""

from __future__ import annotations

import argparse
import ssl
import sys
from pathlib import Path

from proxy.simulator import Latency, Options, Scenario, ScenarioError, fault_table, load, run


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0, 1 for a bad scenario, 2 for usage."""
    given = parser().parse_args(arguments)
    if given.list_faults:
        sys.stdout.write(fault_table() + "\n")
        return 0
    try:
        scenario = load(given.scenario) if given.scenario else Scenario()
    except (ScenarioError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    latencies = (given.ttft, given.per_token, given.unary)
    options = Options(given.seed, *latencies, scenario, given.api_key, given.remember)
    tls = None
    if given.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.cert, given.key)
    run(given.host, given.port, options, tls=tls)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="weir simulate", description="An OpenAI-compatible provider to run against.")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", type=int, default=9999, help="(9999); 0 takes a free one")
    parser.add_argument("--seed", type=int, default=0, help="same seed, model and request: same content")
    parser.add_argument("--ttft", type=_latency, default="0ms", help="20ms, exponential(20ms) or lognormal(300ms, 0.5)")
    parser.add_argument("--per-token", type=_latency, default="0ms", help="likewise, between tokens")
    parser.add_argument("--unary", type=_latency, default=None, help="likewise, of whole unary answers")
    parser.add_argument("--scenario", type=Path, help="a YAML file of models, latencies and faults")
    parser.add_argument("--api-key", help="require this key of clients")
    parser.add_argument("--remember", type=int, default=256, help="how many requests /sim/requests shows (256)")
    parser.add_argument("--cert", type=Path, help="certificate chain (PEM): serve HTTPS")
    parser.add_argument("--key", type=Path, help="its private key (PEM)")
    parser.add_argument("--list-faults", action="store_true", help="print the table of faults")
    return parser


def _latency(text: str) -> Latency:
    try:
        return Latency.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
