"""A sample of tests/attacks/fuzz.py: some hundred broken inputs, the same ones each time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")


def test_fuzz(tmp_path):
    command = [
        sys.executable,
        ROOT / "tests" / "attacks" / "fuzz.py",
        "--target",
        "all",
        "--runs",
        "500",
        "--seed",
        "1",
    ]
    done = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all: 500 executions" in done.stdout
