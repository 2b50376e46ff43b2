"""``skafos adoption …``: each question, for people, as JSON, CSV and Parquet; nothing to tell is not a failure."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from control_plane.api import figure_schemas, schemas
from skafos.cli import adoption
from skafos.cli.app import app as tree
from skafos.cli.export import Column, ParquetFailed, Table, write_parquet
from skafos.cli.figure_pages import amount, seconds
from skafos.exceptions import UnavailableError
from telemetry import queries
from tests.command import PATIENCE_SECONDS, ROOT, run
from tests.flows.running import Running, until
from tests.small_population import population

APP, MODEL = "Figures", "figures"
QUESTIONS = [command.name or "" for command in adoption.app.registered_commands]
# Their tables have columns of every kind between them; all are printed and written by the same two functions.
ALL_KINDS = ["devices", "time", "stuck"]


@pytest.fixture(scope="module")
def told(skafos_up: Running, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A Skafos whose devices have reported, and a model of which none has."""
    skafos, organization = skafos_up, skafos_up.organization
    file = tmp_path_factory.mktemp("model") / "model.bin"
    file.write_bytes(b"weights")
    with skafos.client() as client:
        client.create_app(organization, APP, "org.example.figures", "ios")
        for model in (MODEL, "quiet"):
            client.create_model(organization, APP, model)
            client.upload_version(organization, APP, model, file)
            client.deploy(organization, APP, model, version=1, environment="prod")
        key = client.get_environment(organization, APP, "prod").key
        path = f"{skafos.edge_url}/v2/environments/{key}/events"
        batch = population(MODEL)
        until(lambda: httpx.post(path, json=batch).status_code == 202, "the edge knows the environment")
        count = f"SELECT count() AS n FROM events WHERE model = '{MODEL}'"
        until(lambda: client.sql(count).rows[0]["n"] == len(batch), "the events")
        # What views feed comes after the table, and before the segment is removed.
        until(lambda: not list((skafos.data / "spool").glob("*/*.ready")), "the end of the insert")
    return skafos


def invoke(told: Running, *arguments: str, model: str = MODEL) -> Result:
    """Run a command in this process, which takes a tenth of the time of one of its own."""
    return CliRunner().invoke(tree, ["adoption", *arguments], env=told.settings(APP, model))


def text(told: Running, question: str, *options: str, model: str = MODEL) -> str:
    shown = invoke(told, question, *options, model=model)
    assert (shown.exit_code, shown.stderr) == (0, "")
    return shown.stdout


def table(told: Running, question: str, *options: str, model: str = MODEL) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text(told, question, "--csv", *options, model=model))))


def test_there_is_a_command_for_each_question() -> None:
    assert [
        *("curve", "hours", "devices", "installations", "mix", "funnel"),
        *("failures", "downloads", "bytes", "time", "stuck"),
    ] == QUESTIONS


@pytest.mark.parametrize(
    ("question", "lines"),
    [
        (["curve"], ["4       v1 50.0% (2)  none 50.0% (2)"]),
        (["hours"], ["version 1 came to prod at", "4       v1 50.0% (2)  none 50.0% (2)"]),
        (["devices"], ["ACTIVE  17.1       18.0       OTHERS", "4       2 (50.0%)  2 (50.0%)  0 (0.0%)"]),
        (["installations"], ["2 installations in total", "v1       2"]),
        (["mix"], ["v1       2        50.0%", "none     2        50.0%"]),
        (["funnel"], ["v1       4      3         2       2         1       after download"]),
        (["failures"], ["v1       3      1       33.33%  6.15% to 79.23%  2", "v1       2      1        hash differs"]),
        (["downloads"], ["all      3          0.1 s   0.1 s"]),
        (["bytes"], ["3 downloads took 230 B; patches saved 70 B (23.3%)", "zstd-prefix  1          30 B   100 B"]),
        (["time"], ["of 4 devices that were active since, 2 (50.0%) activated it", "90%    not yet"]),
        (["stuck", "--hours", "0"], ["1 devices are stuck on the way to version 1", "1        download  hash differs"]),
    ],
    ids=lambda each: each[0] if each[0] in QUESTIONS else "",
)
def test_a_question_is_answered_for_people(told: Running, question: list[str], lines: list[str]) -> None:
    shown = text(told, question[0], *question[1:])
    for line in lines:
        assert line in shown


def test_a_row_of_csv_is_one_fact(told: Running) -> None:
    (first, second) = table(told, "curve")
    assert (first["version"], first["devices"], first["share"]) == ("1", "2", "0.5")
    assert (second["version"], second["active_devices"]) == ("", "4")
    steps = {row["step"]: (row["devices"], row["leak"]) for row in table(told, "funnel")}
    assert steps["verify"] == ("2", "false")
    assert steps["download"] == ("3", "true")
    assert table(told, "failures", "--reasons") == [
        {"version": "1", "error": "hash differs", "count": "2", "devices": "1"}
    ]
    assert [row["encoding"] for row in table(told, "bytes", "--encodings")] == ["identity", "zstd-prefix"]
    assert [row["device_id"] for row in table(told, "stuck", "--hours", "0")] == ["d-3"]


@pytest.mark.parametrize("question", ALL_KINDS)
def test_a_question_is_answered_as_json_and_parquet_with_the_rows_of_csv(
    told: Running, question: str, tmp_path: Path
) -> None:
    assert json.loads(text(told, question, "--json"))["model"] == MODEL
    rows = table(told, question)
    file = tmp_path / "figures.parquet"
    done = invoke(told, question, "--parquet", str(file))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"{len(rows)} rows are in {file}.\n")
    stored = parquet(file)
    assert [list(row) for row in stored] == [list(row) for row in rows]


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_data_is_a_sentence_a_header_and_a_file_without_rows(told: Running, question: str, tmp_path: Path) -> None:
    last_line = text(told, question, model="quiet").splitlines()[-1]
    assert last_line.startswith(("no device", "nothing", "0 installations"))
    if question in ALL_KINDS:
        header = text(told, question, "--csv", model="quiet")
        assert header.count("\n") == 1
        file = tmp_path / "figures.parquet"
        assert invoke(told, question, "--parquet", str(file), model="quiet").exit_code == 0
        assert columns(file) == header.strip().split(",")
        assert parquet(file) == []


@pytest.fixture
def away() -> Iterator[dict[str, str]]:
    """The settings of a command that finds nobody: a port that is bound and not listened at refuses."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = {"SKAFOS_URL": f"http://127.0.0.1:{closed.getsockname()[1]}", "SKAFOS_API_TOKEN": "t"}
        yield where | {"SKAFOS_ORG_NAME": "o", "SKAFOS_APP_NAME": "a", "SKAFOS_MODEL_NAME": "m"}


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_cannot_be_asked_makes_neither_header_nor_file(
    question: str, away: dict[str, str], tmp_path: Path
) -> None:
    output = ["--csv"] if question != "stuck" else ["--parquet", str(tmp_path / "figures.parquet")]
    failed = CliRunner().invoke(tree, ["adoption", question, *output], env=away)
    assert isinstance(failed.exception, UnavailableError)  # as a 503 is
    assert failed.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_asked_is_one_line_and_exit_code_1(away: dict[str, str]) -> None:
    failed = run("adoption", "curve", "--csv", **away)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: Cannot reach")
    assert failed.stderr.count("\n") == 1


def test_the_command_writes_parquet_where_a_foreign_config_xml_lies(told: Running, tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text("<not for the engine>")
    settings = told.settings(APP, MODEL) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "skafos", "adoption", "mix", "--parquet", "mix.parquet"]
    subprocess.run(command, env=settings, cwd=tmp_path, check=True, timeout=PATIENCE_SECONDS)
    assert {path.name for path in tmp_path.iterdir()} == {"config.xml", "mix.parquet"}
    assert [row["devices"] for row in parquet(tmp_path / "mix.parquet")] == [2, 2]


def test_moments_need_a_zone_and_options_stand_behind_their_question(told: Running) -> None:
    since = (datetime.now(UTC) - timedelta(hours=3)).strftime("%Y-%m-%dT%H:%MZ")
    assert "+3 h" in text(told, "hours", "--since", since) or "+2 h" in text(told, "hours", "--since", since)
    for arguments in (["hours", "--since", "2026-05-14T12:00"], ["--days", "3", "curve"], ["curve", "--csv", "--json"]):
        assert invoke(told, *arguments).exit_code == 2


def test_the_bounds_of_options_are_those_of_the_api() -> None:
    assert adoption.MAX_DAYS == schemas.MAX_ADOPTION_DAYS
    assert adoption.MAX_HOURS == queries.MAX_HOURS
    assert adoption.MAX_STUCK_HOURS == figure_schemas.MAX_STUCK_HOURS
    assert adoption.MAX_STUCK_DEVICES == queries.MAX_STUCK_DEVICES
    assert adoption.Dimension == queries.Dimension


def test_parquet_keeps_types_texts_and_what_is_missing(tmp_path: Path) -> None:
    kinds = Table(
        (
            Column("day", "day"),
            Column("at", "moment", optional=True),
            Column("version", "integer", optional=True),
            Column("share", "number"),
            Column("error", "text"),
            Column("leak", "flag"),
        ),
        [
            ("2026-05-14", "2026-05-14T12:00:00.123456Z", 3, 0.5, 'it\'s a "test",\n\\x ü', True),
            ("2026-05-15", None, None, 1.0, "", False),
        ],
    )
    write_parquet(kinds, tmp_path / "kinds.parquet")
    assert parquet(tmp_path / "kinds.parquet") == [
        {
            "day": "2026-05-14",
            "at": "2026-05-14 12:00:00.123456",
            "version": 3,
            "share": 0.5,
            "error": 'it\'s a "test",\n\\x ü',
            "leak": True,
        },
        {"day": "2026-05-15", "at": None, "version": None, "share": 1, "error": "", "leak": False},
    ]
    assert (tmp_path / "kinds.parquet").read_bytes()[:4] == b"PAR1"


def test_a_parquet_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    there = tmp_path / "figures.parquet"
    there.write_bytes(b"of yesterday")
    with pytest.raises(ParquetFailed):
        write_parquet(Table((Column("day", "day"),), [("no day",)]), there)
    with pytest.raises(FileNotFoundError):
        write_parquet(Table((Column("day", "day"),), []), tmp_path / "nowhere" / "figures.parquet")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of yesterday"]


def test_amounts_and_times_are_told_in_few_digits() -> None:
    lengths = {0: "0 B", 999: "999 B", 1_000: "1.0 kB", 2_345_678: "2.3 MB", 5 * 10**12: "5.0 TB"}
    assert {length: amount(length) for length in lengths} == lengths
    times = {0.42: "0.4 s", 61: "61 s", 600: "10 min", 90_000: "25.0 h", 400_000: "4.6 days"}
    assert {time: seconds(time) for time in times} == times


def parquet(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in engine(f"SELECT * FROM file('{file}', 'Parquet')", "JSONEachRow")]


def columns(file: Path) -> list[str]:
    return [line.split("\t")[0] for line in engine(f"DESCRIBE file('{file}', 'Parquet')", "TSV")]


def engine(sql: str, output: str) -> list[str]:
    import chdb

    query: Any = chdb.query
    return str(query(sql, output)).splitlines()
