"""Addresses as people paste them from a browser: each means what its page shows, or one line says what to give.

`team/demo` has the runs abc, def and ghi; abc and def are of sweep s1, abc and ghi of group "seeds/a b".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Done

ALL, SWEPT, GROUPED = {"abc", "def", "ghi"}, {"abc", "def"}, {"abc", "ghi"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        for project in ("demo", "other"):
            for run_id in sorted(ALL):
                sweep = "s1" if run_id in SWEPT else None
                group = "seeds/a b" if run_id in GROUPED else None
                server.add_run("team", project, run_id, sweep=sweep, group=group)
        server.add_run("elsewhere", "demo", "abc")
        yield server


@pytest.fixture
def export(server, call_export, tmp_path) -> Callable[..., Done]:
    def call(*places: str) -> Done:
        env = server.environment(tmp_path / "sdk")
        return call_export(*places, "-o", tmp_path / "out", "--retries", 1, env=env)

    return call


@pytest.fixture
def found(tmp_path) -> Callable[[], dict[str, set[str]]]:
    """The ids of the runs that were exported, by entity and project."""

    def read() -> dict[str, set[str]]:
        frames = [pl.read_parquet(file, glob=False) for file in (tmp_path / "out").glob("*_runs.parquet")]
        return {f"{frame['entity'][0]}/{frame['project'][0]}": set(frame["id"]) for frame in frames}

    return read


def refused(done: Done, *said: str) -> None:
    """One line that says what the address is, and what to give in its place."""
    assert (done.code, done.out) == (2, ""), done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for text in said:
        assert text in done.err


# What follows an entity's and project's names in an address, and the runs that its page shows.
PAGES = {
    "": ALL,
    "/": ALL,
    "?nw=nwusersomebody": ALL,
    "/workspace?nw=nwusersomebody": ALL,
    "/workspace": ALL,
    "/table": ALL,
    "/table?nw=abc123": ALL,
    "/overview": ALL,
    "/runs": ALL,
    "/runs/?nw=nwusersomebody": ALL,
    "/runs/abc": {"abc"},
    "/runs/abc/": {"abc"},
    "/runs/abc?nw=nwusersomebody": {"abc"},
    "/runs/abc/overview": {"abc"},
    "/runs/abc/workspace?nw=nwusersomebody#panel": {"abc"},
    "/runs/abc/logs": {"abc"},
    "/runs/abc/files/media/images": {"abc"},
    "/runs/abc/system": {"abc"},
    "/runs/abc/artifacts?tab=used": {"abc"},
    "/sweeps/s1": SWEPT,
    "/sweeps/s1/overview": SWEPT,
    "/sweeps/s1?nw=abc": SWEPT,
    "/groups/seeds%2Fa%20b": GROUPED,
    "/groups/seeds%2Fa%20b/workspace?nw=abc": GROUPED,
}
HOSTS = ("https://wandb.ai/", "http://wandb.ai//", "https://forge.coreweave.com/wandb/", "{server}/")


@pytest.fixture(scope="module")
def many_projects() -> Iterator[Server]:
    """A project for each page, so that one call exports them all and each shows what its address meant."""
    with Server() as server:
        for number in range(max(len(PAGES), len(HOSTS))):
            for run_id in sorted(ALL):
                sweep = "s1" if run_id in SWEPT else None
                group = "seeds/a b" if run_id in GROUPED else None
                server.add_run("team", f"p{number}", run_id, sweep=sweep, group=group)
        yield server


def test_the_pages_of_a_project_its_runs_its_sweeps_and_groups(many_projects, run_script, tmp_path, found):
    places = [f"https://wandb.ai/team/p{number}{page}" for number, page in enumerate(PAGES)]
    env = many_projects.environment(tmp_path / "sdk")
    done = run_script("export_runs.py", *places, "-o", tmp_path / "out", "--retries", 1, env=env)
    assert done.code == 0, done.err
    runs = found()
    assert {page: runs.get(f"team/p{number}") for number, page in enumerate(PAGES)} == PAGES


@pytest.mark.parametrize("start", HOSTS)
def test_the_hosts_of_wandb_and_the_servers_own_mean_the_same(many_projects, call_export, tmp_path, found, start):
    start = start.format(server=many_projects.url)
    env = many_projects.environment(tmp_path / "sdk")
    places = (f"{start}team/p0/runs/abc", f"{start}team/p1/sweeps/s1")
    done = call_export(*places, "-o", tmp_path / "out", "--retries", 1, env=env)
    assert done.code == 0, done.err
    assert found() == {"team/p0": {"abc"}, "team/p1": SWEPT}


@pytest.mark.parametrize(
    ("start", "host"),
    [
        ("https://wandb.ai/", "wandb.ai"),
        ("http://user:secret@Other.example:8080/", "other.example:8080"),
        ("{server}/", ""),
        ("", ""),
    ],
)
def test_a_url_of_another_server_is_said_to_be_one(export, server, found, start, host):
    done = export(f"{start.format(server=server.url)}team/demo/runs/abc")
    assert (done.code, found()) == (0, {"team/demo": {"abc"}})
    said = f"URLs on {host} are looked up on {server.url}; for another server set WANDB_BASE_URL\n"
    assert done.err.startswith(said) if host else "looked up" not in done.err


def test_all_hosts_of_wandb_are_one_server(call_export):
    places = [f"https://{host}/team/demo" for host in ("wandb.ai", "www.wandb.ai", "forge.coreweave.com/wandb")]
    nowhere = {"https_proxy": "http://127.0.0.1:1", "WANDB_API_KEY": "0" * 40}
    done = call_export(*places, "http://example.org/team/demo", "--retries", 0, env=nowhere)
    assert done.code == 1
    assert (done.err.count("looked up"), done.err.count("URLs on example.org are looked up")) == (1, 1)


@pytest.mark.parametrize("place", ["wandb.ai/team/demo/runs/abc", "forge.coreweave.com/wandb/team/demo/runs/abc?nw=a"])
def test_an_address_without_its_beginning(export, found, place):
    """As some browsers show it: it means the same."""
    done = export(place)
    assert done.code == 0, done.err
    assert found() == {"team/demo": {"abc"}}


@pytest.mark.parametrize(
    "place",
    [
        "https://wandb.ai/team",
        "https://wandb.ai/team/",
        "https://wandb.ai/team/projects",
        "https://wandb.ai/team/projects?sort=runs",
        "https://forge.coreweave.com/wandb/team/projects",
        "https://forge.coreweave.com/wandb/team",
    ],
)
def test_a_teams_page_means_its_projects(export, found, place):
    done = export(place)
    assert done.code == 0, done.err
    assert found() == {"team/demo": ALL, "team/other": ALL}


def test_the_list_of_a_projects_sweeps_is_no_choice_of_runs(export, found):
    """The line names what to give in its place: the project, or the address of one sweep."""
    refused(export("https://wandb.ai/team/demo/sweeps?nw=abc"), "sweep", "team/demo")
    assert found() == {}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("https://wandb.ai/team/demo/reports/Title--Vmlldzox", ("report", "team/demo")),
        ("https://wandb.ai/team/demo/reports/Title--Vmlldzox?accessToken=a", ("report", "team/demo")),
        ("https://forge.coreweave.com/wandb/team/demo/reports/Title--Vmlldzox", ("report", "team/demo")),
        ("https://wandb.ai/team/demo/reports", ("report", "team/demo")),
        ("https://wandb.ai/team/demo/reportlist", ("report", "team/demo")),
        ("https://api.wandb.ai/links/team/abc123", ("entity/project",)),
        ("https://wandb.ai/team/demo/artifacts", ("artifact", "team/demo")),
        ("https://wandb.ai/team/demo/artifacts/model/best/v3/files", ("artifact", "team/demo")),
        ("https://wandb.ai/home", ("entity/project",)),
        ("https://wandb.ai", ("entity/project",)),
        ("https://wandb.ai/", ("entity/project",)),
        ("https://forge.coreweave.com/wandb", ("entity/project",)),
        ("team", ("entity/project",)),
        ("", ("entity/project",)),
        ("team//", ("entity/project",)),
    ],
)
def test_pages_that_show_no_runs_are_said_to_be_that(export, place, said):
    refused(export(place), *said)


def test_names_that_are_words_of_addresses_too(call_export, tmp_path, found):
    """As a path, `team/projects` is a project, and `team/runs/reports` a run of another."""
    with Server() as server:
        server.add_run("team", "projects", "abc")
        server.add_run("team", "runs", "reports")
        server.add_run("team", "runs", "sweeps")
        env = server.environment(tmp_path / "sdk")
        places = ("team/projects", "team/runs/reports")
        done = call_export(*places, "-o", tmp_path / "out", "--retries", 1, env=env)
    assert done.code == 0, done.err
    assert found() == {"team/projects": {"abc"}, "team/runs": {"reports"}}
