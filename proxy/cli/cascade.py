"""`weir cascade`: how cascades stand and what they need, in plain words; to begin anew; to choose a score."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from proxy.cli.home import ConfigOption, HomeOption, proxy_of
from proxy.cli.output import CommandError, JsonOption, dollars, paint

app = typer.Typer(name="cascade", help="Look at cascades, and steer them.", no_args_is_help=True, rich_markup_mode=None)
_BEST = -1
_BAR = 20
_ROWS = 10
_STYLES = {"certified": "green", "gathering": "yellow", "infeasible": "red", "reverted": "red"}
PolicyOption = Annotated[str, typer.Option(metavar="NAME", help="The policy's name.")]
ClassOption = Annotated[str, typer.Option("--class", metavar="CLASS", help="One class of traffic; otherwise all.")]


@app.command()
def status(
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show how cascades stand. What is proven, what it takes, what it saves; a few seconds old."""
    with proxy_of(home, config) as proxy:
        found = proxy.operate("cascade", "status")["cascades"]
    if as_json:
        print(json.dumps({"cascades": found}))
    else:
        print("\n\n".join("\n".join(standing(each)) for each in found) or "no cascade has seen a request")


@app.command()
def reset(
    policy: PolicyOption = "cascade",
    traffic: ClassOption = "",
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Begin the evidence anew. After a change that the proxy can't see: of prompts, of what users ask."""
    with proxy_of(home, config) as proxy:
        found = proxy.operate("cascade", "reset", policy=policy, **{"class": traffic})
    print(f"{policy} begins anew: {', '.join(found['classes'])}")


@app.command()
def use(
    score: Annotated[str, typer.Argument(metavar="SCORE", help="A score's number, or `best`.")],
    policy: PolicyOption = "cascade",
    traffic: ClassOption = "",
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Choose a score. Only if it is certified does the small model answer by it; `best` is the rule."""
    if score != "best" and not score.isdecimal():
        raise CommandError("name a score by its number, or `best`")
    number = _BEST if score == "best" else int(score)
    with proxy_of(home, config) as proxy:
        found = proxy.operate("cascade", "use", policy=policy, score=number, **{"class": traffic})
    print(f"{policy} uses {'the best score' if number == _BEST else f'score {number}'}: {', '.join(found['classes'])}")


def standing(told: Mapping[str, Any]) -> Iterator[str]:
    """One class, as lines for people."""
    small, large = told["rungs"]
    status = paint(told["status"], _STYLES.get(told["status"], "yellow"))
    observed = ", observed only" if told["observing"] else ""
    yield f"{told['policy']}, {told['class']}: {status}{observed} ({small} before {large})"
    lines = {
        "traffic": _traffic(told),
        "means": _means(told, small, large),
        "proof": f"{told['pairs']:,} judged, p = {told['p']:.2g} (score {told['score']}, cert {told['certificate']})",
        "needs": _needs(told),
        "answers": _answers(told, small),
        "costs": _costs(told, small, large),
        "money": f"saved {dollars(told['saved_nanos'])}, spent {dollars(told['spent_nanos'])} on learning",
        "judge": _judge(told),
    }
    for name, text in lines.items():
        if text:
            yield f"  {name:<8} {text}"
    yield from _evidence(told)


def _traffic(told: Mapping[str, Any]) -> str:
    if "cluster" not in told:
        return ""
    number, count, share = told["cluster"]
    return f"cluster {number} of {count}, {share:.0%} of the requests that they were learnt from"


def _means(told: Mapping[str, Any], small: str, large: str) -> str:
    loss = f"{told['max_quality_loss'] * 100:g} points"
    sure = f"{told['confidence'] * 100:g} %"
    if told["status"] == "certified":
        given = f"{(1 - told['escalates']) * 100:.0f} %" if told["escalates"] is not None else "some"
        verb = "could answer" if told["observing"] else "answers"
        return f"{small} {verb} {given} of the requests; {sure} sure that this loses at most {loss}"
    if told["status"] == "infeasible":
        return (
            f"no threshold pays: asking {small} first would cost as much as {large} alone. It is off, {large} answers"
        )
    if told["status"] == "reverted":
        return f"answers of {small} became worse by more than {loss}: {large} answers until it is proven again"
    until = large if told["until_certified"] == "large" or told["observing"] else small
    return f"not yet {sure} sure that less than {loss} are lost; until then {until} answers"


def _needs(told: Mapping[str, Any]) -> str:
    if told["status"] == "certified":
        return ""
    if told["status"] == "infeasible":
        return "a cheaper small model or a better one; `weir cascade reset` tries again"
    if "clusters" in told:
        seen, of = told["clusters"]["seen"], told["clusters"]["of"]
        return f"about {max(1, of - seen):,} more requests at a worker; then clusters are learnt, and proven one by one"
    needed = told["pairs_needed"]
    if needed is None:
        return (
            "more pairs: so far nothing says how many" if not told["judged"] else "answers that are better than these"
        )
    text = f"about {needed:,} more pairs"
    if told["judged"]:
        text += f", {dollars(round(needed * told['spent_nanos'] / told['judged']))}"
    a_day = told["requests_a_day"] * told["shadow_rate"]
    if a_day > 0:
        text += f", {_days(needed / a_day)} at present traffic"
    return text


def _days(days: float) -> str:
    if days < 1 / 24:
        return f"{max(1, math.ceil(days * 1440))} minutes"
    return f"{days * 24:.0f} hours" if days < 2 else f"{days:.0f} days"


def _answers(told: Mapping[str, Any], small: str) -> str:
    gates = ", ".join(f"{gate} {count}" for gate, count in sorted(told["gates"].items()))
    text = f"{told['requests']:,} requests, {told['small']:,} by {small}, {told['escalated']:,} escalated"
    return f"{text} ({gates})" if gates else text


def _costs(told: Mapping[str, Any], small: str, large: str) -> str:
    if told["small_nanos"] is None:
        return ""
    text = f"{dollars(told['small_nanos'])} an answer by {small}, {dollars(told['large_nanos'])} by {large}"
    if told["escalates"] is None:
        return text
    each = told["large_nanos"] * (1 - told["escalates"]) - told["small_nanos"]
    word = "would save" if told["observing"] else "saves"
    return f"{text}: {word} about {dollars(round(each * told['requests_a_day']))} a day"


def _judge(told: Mapping[str, Any]) -> str:
    right, asked = told["agrees"]
    if not asked:
        return f"{told['judge']}; its agreement with people isn't measured (`judge.labelled`)"
    return f"{told['judge']}; agrees with people on {right} of {asked} labelled pairs ({right / asked:.0%})"


def _evidence(told: Mapping[str, Any]) -> Iterator[str]:
    """Thresholds, from the most careful on: what each escalates, what it loses, how far its proof has come."""
    rows = _distinct([row for row in told["evidence"] if len(row) >= 4], told["threshold"])
    if not rows or not told["pairs"]:
        return
    step = max(1, math.ceil(len(rows) / _ROWS))
    yield f"  {'escalates':>12} {'loss':>12}   proof"
    for threshold, escalated, loss, p, *_ in rows[(len(rows) - 1) % step :: step]:
        done = min(1.0, max(0.0, math.log(max(p, 1e-300)) / math.log(told["delta"])))
        bar = "█" * round(done * _BAR) + "·" * (_BAR - round(done * _BAR))
        here = " ◂" if told["threshold"] is not None and threshold == told["threshold"] else ""
        yield f"  {escalated * 100:>10.0f} % {loss * 100:>5.1f} points   {bar}{' proven' if done >= 1 else ''}{here}"


def _distinct(rows: Sequence[Sequence[float]], threshold: float | None) -> list[Sequence[float]]:
    """Thresholds between which there was no answer say the same: of these the one in force, else the last."""
    found: dict[tuple[float, ...], Sequence[float]] = {}
    for row in rows:
        if found.get(tuple(row[1:3]), (None,))[0] != threshold or threshold is None:
            found[tuple(row[1:3])] = row
    return list(found.values())
