"""What a container cannot show, for its kernel is another's."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HEALTHY, Airflow, open_ports, reboot, unit_property, wait_for
from testinfra.host import Host

SCHEDULER = "lvao-airflow-scheduler"


@pytest.fixture
def little_memory(host: Host) -> Iterator[None]:
    """Leave the scheduler's tasks little."""
    bound, used = (unit_property(host, SCHEDULER, name) for name in ("MemoryMax", "MemoryCurrent"))
    set_bound = f"systemctl set-property --runtime {SCHEDULER} MemoryMax="
    host.check_output(f"{set_bound}{int(used) + 300_000_000}")
    yield
    host.check_output(f"{set_bound}{bound}")


def test_it_is_a_vm(host: Host) -> None:
    assert host.check_output("systemd-detect-virt --vm")
    assert host.run("systemd-detect-virt --container --quiet").failed


def test_it_is_open_where_it_should_be(host: Host) -> None:
    ports = [22, 80, 443, 5432, 6200, 8080, 8081, 8090, 8793, 8794, 11211]
    assert open_ports(os.environ["LVAO_ADDRESS"], ports=ports) == [22, 80, 443, 8080]


@pytest.mark.usefixtures("little_memory")
def test_a_task_that_takes_too_much_memory_ends_alone(host: Host, airflow: Airflow) -> None:
    process, dag = unit_property(host, SCHEDULER, "MainPID"), "/opt/airflow/current/dags/eater.py"
    source = Path(__file__).with_name("eater.py").read_text()
    host.check_output(f"printf %s {shlex.quote(source)} > {dag}")
    run_id = airflow.trigger("eater")
    assert airflow.finish("eater", run_id) == "failed"
    host.check_output(f"rm {dag}")
    assert host.run(f"journalctl --dmesg --no-pager --grep='oom-kill.*{SCHEDULER}'").succeeded
    assert unit_property(host, SCHEDULER, "MainPID") == process
    assert airflow.health() == HEALTHY
    run_id = airflow.trigger("log_canary")
    assert airflow.finish("log_canary", run_id) == "success"


def test_no_other_unit_listens_on_the_port_of_the_webserver(host: Host) -> None:
    bind = "import socket; socket.socket().bind(('127.0.0.2', {}))"
    for port, refused in ((8081, True), (18081, False)):
        assert host.run(f'LVAO_PROGRAM=python airflow -c "{bind.format(port)}"').failed is refused


def assert_that_the_kernel_has_its_settings(host: Host) -> None:
    """Check what the common role, the baseline and the firewall want of it."""
    names = "fs.protected_regular kernel.kptr_restrict kernel.yama.ptrace_scope net.ipv4.conf.eth0.accept_redirects"
    assert host.check_output(f"sysctl --values {names}").split() == ["2", "2", "1", "0"]
    assert "-w /etc/sudoers -p wa -k sudo" in host.check_output("auditctl -l")
    assert "policy drop" in host.check_output("nft list table inet lvao")


def test_the_kernel_has_its_settings(host: Host) -> None:
    assert_that_the_kernel_has_its_settings(host)
    host.check_output("touch /etc/sudoers")
    wait_for(lambda: host.run("ausearch --key sudo --input-logs").succeeded, 30, "the audit's record")


def test_tasks_run_with_what_containers_refuse(host: Host, airflow: Airflow) -> None:
    """A user namespace, and credentials: a site may add them by `airflow_unit_overrides`."""
    unit = unit_property(host, SCHEDULER, "Id")
    drop_in = f"/run/systemd/system/{unit}.d"
    lines = "[Service]\nPrivateUsers=yes\nLoadCredential=test:/etc/sudoers\n"
    host.check_output(f"mkdir --parents {drop_in} && printf {shlex.quote(lines)} > {drop_in}/vm.conf")
    host.check_output("systemctl daemon-reload")
    host.check_output(f"systemctl restart {SCHEDULER}")
    host.check_output(f"rm --recursive {drop_in} && systemctl daemon-reload")
    users = host.check_output(f"cat /proc/{unit_property(host, SCHEDULER, 'MainPID')}/uid_map").split()
    assert users == ["0", "0", "1", *host.check_output("id --user airflow").split() * 2, "1"]
    assert host.file(f"/run/credentials/{unit}/test").exists
    run_id = airflow.trigger("log_canary")
    assert airflow.finish("log_canary", run_id) == "success"


def test_and_after_a_reboot_too(host: Host, airflow: Airflow) -> None:
    reboot(host)
    assert_that_the_kernel_has_its_settings(host)
    wait_for(lambda: airflow.health() == HEALTHY, 300, "health after the reboot")
