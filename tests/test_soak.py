"""A bounded sample of `tests/attacks/soak.py`: exports again and again, while the server changes and fails."""

from __future__ import annotations

import random
import sys

import pytest
from attacks.soak import Soak, carry_out, loop


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_server_that_changes_and_fails_is_exported_as_it_is(empty_server, clean_environment, tmp_path):
    (tmp_path / "out").mkdir()
    env = clean_environment | empty_server.environment(tmp_path / "sdk")
    soak = Soak(empty_server, tmp_path / "out", env, random.Random(1), timeout_s=2)
    carry_out(soak, 200, 5)
    loop(soak, 3)
    assert soak.findings == []
