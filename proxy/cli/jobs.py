"""`weir jobs`: requests that are answered later, as the running proxy has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from proxy.cli.home import ConfigOption, HomeOption, proxy_of
from proxy.cli.output import CommandError, JsonOption, dollars

app = typer.Typer(
    name="jobs", help="Look at requests that are answered later, and cancel them.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip

_POLICY = "defer_to_batch"


@app.command("list")
def list_(
    only_open: Annotated[bool, typer.Option("--open", help="Only those that aren't over.")] = False,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="How many, the latest first.")] = 100,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show jobs. The latest first."""
    with proxy_of(home, config) as proxy:
        found = proxy.operate(_POLICY, "list", open=only_open, limit=limit)
    if as_json:
        print(json.dumps(found))
        return
    for job in found["jobs"]:
        due = f"due {_time(job['deadline_at'])}" if job["ended_at"] is None else f"ended {_time(job['ended_at'])}"
        print(f"{job['id']}  {job['status']:<9}  {job['model']:<24}  {job['team'] or '-':<12}  {due}")
    if not found["jobs"]:
        print("no jobs")
    elif found["more"]:
        print("… and more")


@app.command()
def show(
    job: Annotated[str, typer.Argument(metavar="JOB", help="As in the header x-weir-job.")],
    answer: Annotated[bool, typer.Option("--answer", help="Print the answer, and nothing else.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show a job. How it stands, what it cost and saved; its answer only if asked for."""
    with proxy_of(home, config) as proxy:
        found = dict(proxy.operate(_POLICY, "show", job=job))
    told = found.pop("answer")
    if answer:
        if told is None:
            raise CommandError(f"the job is {found['status']}: there is no answer")
        print(json.dumps(told))
    else:
        print(json.dumps(found) if as_json else "\n".join(_lines(found)))


@app.command()
def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="As in the header x-weir-job.")],
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Cancel jobs. What the provider has answered by then is billed."""
    with proxy_of(home, config) as proxy:
        found = proxy.operate(_POLICY, "cancel", jobs=jobs)
    print(f"{found['cancelling']} {'job is' if found['cancelling'] == 1 else 'jobs are'} being cancelled")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"status    {found['status']}" + (f", by {found['how']}" if found["how"] else "")
    yield f"asked     {found['endpoint']}, {found['model']}"
    yield f"whose     {found['tenant']}"
    yield f"accepted  {_time(found['created_at'])}, due {_time(found['deadline_at'])}"
    if found["ended_at"] is not None:
        yield f"ended     {_time(found['ended_at'])}, status {found['status_code']}"
        yield f"cost      {dollars(found['cost_nanodollars'])}, saved {dollars(found['saved_nanodollars'])}"
    elif found["batch"]:
        yield f"batch     {found['batch']}"


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
