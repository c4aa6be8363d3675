"""`weir report` and `weir reconcile` as people run them."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from proxy.cli.output import CommandError
from proxy.cli.report import pdf_of
from proxy.ledger.opening import open_ledger
from tests.cli.conftest import Weir
from tests.ledger.filled import DOLLAR, Filled


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a ledger of two months."""
    home = tmp_path / "home"
    home.mkdir()
    filled = Filled(open_ledger("sqlite:///ledger.db", home))
    filled.use("2026-10-03 10:00", 2 * DOLLAR)
    filled.use("2026-11-03 10:00", 3 * DOLLAR, 10)
    filled.use("2026-11-30 23:30", 4 * DOLLAR, team="docs", model="gpt-4o-mini", served="gpt-4o-mini")
    filled.use("2026-11-05 10:00", None, 2, team="docs")
    filled.write()
    return home


def test_a_month_as_a_table(home: Path, weir: Weir) -> None:
    """The lines, the sum, and a word on stderr about what has no price."""
    done = weir("report", "--home", str(home), "--month", "2026-11")
    assert done.returncode == 0, done.stderr
    assert "Spend by team" in done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith((" search", " docs", " Total"))][
        :3
    ] == [
        ["docs", "4.00"],
        ["search", "3.00"],
        ["Total", "7.00"],
    ]
    assert done.stderr.startswith("2 attempts have no known price")


def test_the_zone_is_that_of_the_policy_file(home: Path, weir: Weir, tmp_path: Path) -> None:
    """Half an hour before midnight UTC is December in Berlin; secrets that aren't set don't matter to a report."""
    (tmp_path / "weir.yaml").write_text(
        "version: 1\nhome: home\nupstreams: {openai: {url: https://api.openai.com/v1, key: '${NOWHERE}'}}\n"
        "policies: policies.yaml\n"
    )
    (tmp_path / "policies.yaml").write_text("version: 1\ntime_zone: Europe/Berlin\npolicies: []\n")
    done = weir("report", "--month", "2026-11", "--format", "json")
    found = json.loads(done.stdout)
    assert (found["time_zone"], found["spend"]["total"]["cost"]["nanodollars"]) == ("Europe/Berlin", 3 * DOLLAR)
    done = weir("report", "--month", "2026-11", "--format", "json", "--time-zone", "UTC")
    assert json.loads(done.stdout)["spend"]["total"]["cost"]["nanodollars"] == 7 * DOLLAR


def test_cut_by_several_and_filtered(home: Path, weir: Weir) -> None:
    """--by, --where and --from/--to, the last day included."""
    done = weir(
        *("report", "--home", str(home), "--from", "2026-11-01", "--to", "2026-11-30"),
        *("--by", "team,model", "--where", "team=docs", "--format", "csv"),
    )
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [(row["team"], row["model"], row["cost_usd"]) for row in rows] == [
        ("docs", "gpt-4o-mini", "4.000000000"),
        ("docs", "gpt-4o", "0.000000000"),
    ]


def test_a_pdf_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error says what to install, and what does without."""
    monkeypatch.setitem(sys.modules, "proxy.ledger.reporting.paper", None)
    with pytest.raises(CommandError, match=r"weir-proxy\[pdf\].*--format html"):
        pdf_of([])


@pytest.mark.parametrize("name", ["r.csv", "r.json", "r.xlsx", "r.html", "r.pdf"])
def test_the_files_name_says_the_format(name: str, home: Path, weir: Weir, tmp_path: Path) -> None:
    """-o writes the file, whole, and nothing else."""
    done = weir("report", "--home", str(home), "--month", "2026-11", "-o", name)
    assert (done.returncode, done.stdout) == (0, "")
    start = (tmp_path / name).read_bytes()[:9]
    begins = {"csv": b"team,cost", "json": b"{\n", "xlsx": b"PK", "html": b"<!doctype", "pdf": b"%PDF-1."}
    assert start.startswith(begins[name[2:]])
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")] == []


def test_focus_as_file_and_as_directory(home: Path, weir: Weir, tmp_path: Path) -> None:
    """1.2 is a file, 1.4 a directory of three."""
    assert (
        weir("report", "--home", str(home), "--month", "2026-11", "--format", "focus-1.2", "-o", "f.csv").returncode
        == 0
    )
    assert b"ProviderName" in (tmp_path / "f.csv").read_bytes()
    assert (
        weir("report", "--home", str(home), "--month", "2026-11", "--format", "focus-1.4", "-o", "f14").returncode == 0
    )
    assert {file.name for file in (tmp_path / "f14").iterdir()} == {
        "CostAndUsage.csv",
        "BillingPeriod.csv",
        "InvoiceDetail.csv",
    }


def test_another_part_as_csv(home: Path, weir: Weir) -> None:
    """--section chooses it; one that there is nothing in says so."""
    done = weir("report", "--home", str(home), "--month", "2026-11", "--format", "csv", "--section", "days")
    assert len(done.stdout.splitlines()) == 31
    done = weir("report", "--home", str(home), "--month", "2026-11", "--format", "csv", "--section", "movers")
    assert (done.returncode, "no section movers" in done.stderr) == (1, True)
    done = weir(
        *("report", "--home", str(home), "--month", "2026-11", "--compare", "previous"),
        *("--format", "csv", "--section", "movers"),
    )
    assert done.stdout.splitlines()[1].startswith("docs,")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--month", "2026-13"], "month"),
        (["--month", "2026-11", "--from", "2026-11-01"], "give one of them"),
        (["--to", "2026-11-01"], "--to needs --from"),
        (["--from", "2026-11-05", "--to", "2026-11-01"], "ends"),
        (["--from", "yesterday"], "no day"),
        (["--by", "tem"], "there is no dimension 'tem'"),
        (["--where", "team"], "no condition"),
        (["--time-zone", "Berlin"], "no time zone"),
        (["--section", "all", "--format", "csv"], "no section 'all'"),
        (["--currency", "EUR"], "belong together"),
        (["--currency", "EUR", "--rate", "0", "--rate-date", "2026-11-30"], "no rate"),
        (
            ["--currency", "EUR", "--rate", "1", "--rate-date", "2026-11-30", "--format", "focus-1.2"],
            "leave out --currency",
        ),
    ],
)
def test_what_cant_be_meant(options: list[str], words: str, home: Path, weir: Weir) -> None:
    """Exit status 2, and a line that says what would be right."""
    done = weir("report", "--home", str(home), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_no_ledger_yet(weir: Weir, tmp_path: Path) -> None:
    """It isn't made by looking for it; a file that is something else isn't a traceback."""
    done = weir("report", "--home", str(tmp_path))
    assert (done.returncode, "no ledger yet" in done.stderr) == (1, True)
    assert not (tmp_path / "ledger.db").exists()
    (tmp_path / "ledger.db").write_text("not a database, and long enough to be taken for one" * 30)
    done = weir("report", "--home", str(tmp_path))
    assert (done.returncode, done.stderr.startswith("weir: the ledger can't be read")) == (1, True)


# --- reconcile


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    """OpenAI's costs of November: one model is dearer, one day isn't there."""
    file = tmp_path / "costs.csv"
    file.write_text(
        "start_time_iso,amount_value,amount_currency,line_item,project_id\n"
        '2026-11-03T00:00:00Z,3.3,usd,"gpt-4o-2024-08-06, output",proj_a\n'
        '2026-11-29T00:00:00Z,0.5,usd,"code interpreter sessions",proj_a\n'
        '2026-11-30T00:00:00Z,4,usd,"gpt-4o-mini-2024-07-18, output",proj_a\n'
    )
    return file


def test_differences_are_named(costs: Path, home: Path, weir: Weir) -> None:
    """A table by cause, by day and by finding; JSON with both sums."""
    done = weir("reconcile", "--home", str(home), "--provider", "openai", str(costs))
    assert done.returncode == 0, done.stderr
    assert "residency" in done.stdout
    assert "fee" in done.stdout
    done = weir("reconcile", "--home", str(home), "--provider", "openai", "--format", "json", str(costs))
    found = json.loads(done.stdout)
    assert (found["recorded_nanodollars"], found["billed_nanodollars"]) == (7 * DOLLAR, 7_800_000_000)
    assert {(row["day"], row["cause"], row["residual"]["nanodollars"]) for row in found["findings"]["rows"]} == {
        ("2026-11-03", "residency", 300_000_000),
        ("2026-11-29", "fee", 500_000_000),
    }


def test_an_export_in_euros_needs_its_rate(costs: Path, home: Path, weir: Weir) -> None:
    """Without one it isn't guessed; with it, it is said."""
    costs.write_text(costs.read_text().replace("usd", "eur"))
    arguments = ("reconcile", "--home", str(home), "--provider", "openai", str(costs))
    done = weir(*arguments)
    assert (done.returncode, "the export is in EUR" in done.stderr) == (2, True)
    done = weir(*arguments, "--currency", "eur", "--rate", "1.1", "--rate-date", "2026-11-30", "--format", "html")
    assert "converted from EUR at 1.1 a dollar, of 2026-11-30" in done.stdout


def test_a_file_that_is_no_export(home: Path, weir: Weir, tmp_path: Path) -> None:
    """It is named; so are pairs that aren't."""
    (tmp_path / "x.json").write_text("{}")
    done = weir("reconcile", "--home", str(home), "--provider", "anthropic", "x.json")
    assert (done.returncode, "x.json: not a cost export of anthropic" in done.stderr) == (1, True)
    done = weir("reconcile", "--home", str(home), "--provider", "anthropic", "--map", "a", "x.json")
    assert (done.returncode, "--map proj_abc=search" in done.stderr) == (2, True)
