"""Check mode is the drift report: on a host that is as it should be, it has nothing to say."""

import os
import re
import subprocess

import pytest
from conftest import INVENTORY, PROJECT


@pytest.mark.first
def test_check_mode_finds_nothing_to_change() -> None:
    command = ["ansible-playbook", "-i", INVENTORY, "--limit", os.environ["LVAO_HOSTS"], os.environ["LVAO_CONVERGE"]]
    ended = subprocess.run([*command, "--check"], cwd=PROJECT, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert set(re.findall(r"changed=(\d+)", ended.stdout)) == {"0"}, ended.stdout
