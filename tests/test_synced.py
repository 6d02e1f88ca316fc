"""A sample of tests/attacks/synced.py: some random programs, the same ones each time."""

from __future__ import annotations

import sys

from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "attacks"))
import synced  # it is no test


def test_offline_exports_are_those_of_the_synced_runs(tmp_path):
    assert synced.compare(range(6, 10), tmp_path) == []
