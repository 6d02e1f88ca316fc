"""The commands of README.md and SKILL.md run as written and print what the pages show.

`WANDB_TOOLS_UPDATE=1 uv run pytest tests/test_docs.py -n 0` writes the shown output anew; review the diff.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "SKILL.md", "examples/recipes.md")
NOT_RUN = ("uv run pytest", "uv run tests/benchmarks/", "uv run tests/attacks/")  # this very test; minutes of measuring
CREATED = datetime.now(UTC).isoformat()  # of the runs on the server: "--since" looks back from now
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a clone holds, as far as the commands need it."""
    for name in ("wandb-tools", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture
def server_settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of someone who has signed in to a server with one project."""
    with Server() as server:
        server.add_entity("my-team")
        for number in range(3):
            place = ("my-team", "my-project", f"run{number}")
            file = "media/table/predictions_1_x.table.json"
            server.add_run(
                *place,
                created_at=CREATED,
                config={"lr": 0.001 * (number + 1)},
                summary={"test/mse": 0.5 - 0.1 * number, "predictions": {"_type": "table-file", "path": file}},
            )
            server.add_file(*place, file, '{"columns": ["label", "score"], "data": [["a", 0.5], ["b", 1]]}')
            server.add_console(*place, ["2026-01-01T00:00:01.5 epoch 0", "ERROR 2026-01-01T00:00:02.5 no more memory"])
            server.add_history(*place, rows=[{"_step": step, "loss": 1 / (step + 1)} for step in range(9)])
        yield server.environment(tmp_path / "sdk")


def run(command: list[str], folder: Path, settings: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    foreign = ("WANDB_", "VIRTUAL_ENV", "COLUMNS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | (settings or {})
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)


@functools.cache
def help_of(script: str) -> str:
    return run([sys.executable, str(ROOT / "wandb-tools" / script), "--help"], ROOT).stdout


def blocks(page: str) -> list[tuple[str, str, str | None]]:
    """Language and text of every block, with the text of a `text` block that follows it directly."""
    text = (ROOT / page).read_text("utf-8")
    found = list(BLOCK.finditer(text))
    pairs = []
    for block, following in zip(found, [*found[1:], None], strict=True):
        adjoining = following is not None and following[1] == "text" and text[block.end() : following.start()].isspace()
        pairs.append((block[1], block[2], following[2] if adjoining and following else None))
    return [pair for pair in pairs if pair[0] != "text"]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_as_written(page: str, folder: Path, server_settings: dict[str, str]) -> None:
    shown_anew = []
    for language, code, shown in blocks(page):
        if language == "bash":
            printed = ""
            for line in code.splitlines():
                if line.startswith(NOT_RUN):
                    continue
                result = run(["bash", "-ec", line], folder, server_settings)
                assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
                assert "a bug in this script" not in result.stderr
                printed += result.stdout
            if shown is not None:
                shown_anew.append((shown, printed))
        elif language == "python":
            result = run([sys.executable, "-c", code], folder)
            assert result.returncode == 0, result.stderr
    if os.environ.get("WANDB_TOOLS_UPDATE"):
        text = (ROOT / page).read_text("utf-8")
        position = 0
        for shown, printed in shown_anew:
            old, new = f"```text\n{shown}```", f"```text\n{printed}```"
            position = text.index(old, position)
            text = text[:position] + new + text[position + len(old) :]
            position += len(new)
        (ROOT / page).write_text(text, "utf-8")
    else:
        for shown, printed in shown_anew:
            assert shown == printed


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_on_the_page_exists(page: str) -> None:
    scripts = sorted((ROOT / "wandb-tools").glob("*.py"))
    known = {"--env-file"} | {  # of uv
        name for script in scripts for name in re.findall(r"--[a-z][a-z-]+", script.read_text("utf-8"))
    }
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / page).read_text("utf-8")))
    assert used - known == set()


def test_every_flag_is_in_the_readme_or_in_the_manual() -> None:
    readme = (ROOT / "README.md").read_text("utf-8") + (ROOT / "SKILL.md").read_text("utf-8")
    for script in sorted((ROOT / "wandb-tools").glob("*.py")):
        shown = help_of(script.name)
        flags = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help", "--script"}
        assert {flag for flag in flags if flag not in readme} == set(), script.name


def test_the_skill_has_valid_frontmatter() -> None:
    text = (ROOT / "SKILL.md").read_text("utf-8")
    front, body = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    keys = re.findall(r"^([\w-]+):", front, re.MULTILINE)
    assert set(keys) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
    assert re.search(r"^name: (.*)$", front, re.MULTILINE)[1] == "wandb-tools"
    description = " ".join(re.search(r"^description: >-\n((?:  .*\n?)+)", front, re.MULTILINE)[1].split())
    assert 50 < len(description) <= 1024
    assert len(body.splitlines()) < 200
    assert len(text) / 3 < 3_000  # tokens: English has four characters in one, commands fewer


def test_the_reference_validator_takes_the_skill(tmp_path: Path) -> None:
    skill = tmp_path / "wandb-tools"  # a skill's folder is called as it is
    skill.mkdir()
    (skill / "SKILL.md").write_text((ROOT / "SKILL.md").read_text("utf-8"), "utf-8")
    result = run([str(Path(sys.executable).parent / "agentskills"), "validate", str(skill)], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_skill_names_flags_that_its_scripts_have() -> None:
    """Each command of the table goes with flags of the script that it starts."""
    text = (ROOT / "SKILL.md").read_text("utf-8")
    rows = re.findall(r"`(A|\w+\.py)([^`]*)`", text)
    for script, rest in rows:
        name = "analyze_runs.py" if script == "A" else script
        for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest):
            assert flag in help_of(name), f"{name} has no {flag}"
    assert len(rows) > 20


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:wandb-tools|examples|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
