"""Check mode is the drift report: on a host that is as it should be, it has nothing to say."""

import os
import re
import subprocess

from conftest import INVENTORY, PROJECT


def test_check_mode_finds_nothing_to_change() -> None:
    scenario = os.environ["MOLECULE_SCENARIO_NAME"]
    own = PROJECT / "molecule" / scenario / "converge.yml"
    playbook = own if own.exists() else PROJECT / "molecule/shared/converge.yml"
    command = ["ansible-playbook", "-i", INVENTORY, "--limit", os.environ["LVAO_HOSTS"], playbook, "--check"]
    ended = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert set(re.findall(r"changed=(\d+)", ended.stdout)) == {"0"}, ended.stdout
