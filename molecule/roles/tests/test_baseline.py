"""A host that takes security upgrades by itself, and keys alone, and that Ansible stays able to reach."""

import subprocess
from collections.abc import Iterator

import pytest
from conftest import PROJECT, Ended, apply_role, said, wait_for
from testinfra.host import Host

ADDRESS = "172.29.215.11"
KEY = PROJECT / ".cache/molecule-roles/ssh"
SSHD = "/etc/ssh/sshd_config.d/01-lvao.conf"
FILES = [
    "/etc/apt/apt.conf.d/60lvao-upgrades",
    "/etc/needrestart/conf.d/lvao.conf",
    SSHD,
    "/etc/sysctl.d/90-lvao.conf",
]
OUTDATED = """
cp /bin/sleep /root/{unit}
systemd-run --quiet --service-type=exec --unit={unit} /root/{unit} infinity
cp /bin/sleep /root/new && mv /root/new /root/{unit}
systemctl show --property=MainPID --value {unit}
"""


def ssh(user: str, *options: str) -> Ended:
    """Log in on a connection of its own, with the operator's key unless told otherwise."""
    command = ["ssh", "-F", "none", "-i", KEY, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    command += ["-o", "LogLevel=ERROR", *options, f"{user}@{ADDRESS}", "id", "-un"]
    return subprocess.run(command, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def _root_has_the_key(host: Host) -> None:
    host.check_output("install -D --mode=600 ~debian/.ssh/authorized_keys /root/.ssh/authorized_keys")


def test_ssh_takes_keys_alone() -> None:
    assert ssh("debian").stdout == "debian\n"
    # The methods that the server would take.
    refused = ssh("debian", "-o", "BatchMode=yes", "-o", "PubkeyAuthentication=no")
    assert refused.stderr.strip().endswith("Permission denied (publickey).")


def test_who_does_not_log_in_is_cut_off_after_a_minute(host: Host) -> None:
    assert "logingracetime 60" in host.check_output("sshd -T").splitlines()


def test_root_does_not_log_in_where_ansible_is_somebody_else() -> None:
    assert "Permission denied" in ssh("root", "-o", "BatchMode=yes").stderr


def test_security_upgrades_alone_are_installed_every_day(host: Host) -> None:
    said = host.check_output("unattended-upgrade --dry-run --debug 2>&1")
    allowed = next(line for line in said.splitlines() if line.startswith("Allowed origins are: "))
    codename = host.system_info.codename
    assert allowed.partition(": ")[2].split(", origin=Ubuntu")[0] == (
        f"origin=Debian,codename={codename}-security,label=Debian-Security"
    )
    settings = host.check_output("apt-config dump APT::Periodic").splitlines()
    assert 'APT::Periodic::Update-Package-Lists "1";' in settings
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.service(timer).is_enabled
        assert host.service(timer).is_running


def test_upgrades_do_not_reboot_the_host(host: Host) -> None:
    assert host.check_output("apt-config dump Unattended-Upgrade::Automatic-Reboot").endswith(' "false";')


def test_upgrades_restart_others_and_leave_airflow_alone(host: Host) -> None:
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends needrestart")
    before = {
        unit: host.check_output(OUTDATED.format(unit=unit)).strip() for unit in ("lvao-airflow-test", "other-test")
    }
    said = host.run("needrestart -r a -l 2>&1").stdout

    def main(unit: str) -> str:
        return host.check_output(f"systemctl show --property=MainPID --value {unit}")

    wait_for(lambda: main("other-test") != before["other-test"], 10, f"a restart: {said}")
    assert main("lvao-airflow-test") == before["lvao-airflow-test"]
    host.check_output("systemctl stop lvao-airflow-test other-test")


def test_the_kernel_takes_its_settings(host: Host) -> None:
    # Those of the network, in one of its own; a container's others are this machine's.
    names = ["net.ipv4.conf.all.accept_redirects", "net.ipv4.conf.lo.send_redirects"]
    before = f"mount -o remount,rw,bind /proc/sys && sysctl --quiet {' '.join(f'{name}=1' for name in names)}"
    after = f"/usr/lib/systemd/systemd-sysctl --prefix=net && sysctl --values {' '.join(names)}"
    assert host.check_output(f"unshare --net --mount sh -c '{before} && {after}'").split() == ["0", "0"]
    read = host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config").splitlines()
    assert "kernel.kptr_restrict = 2" in read


@pytest.fixture
def _its_network_can_be_set(host: Host) -> Iterator[None]:
    """Let the container set its kernel, whose network alone is its own."""
    host.check_output("mount -o remount,rw,bind /proc/sys")
    yield
    host.check_output("mount -o remount,ro,bind /proc/sys")
    ended = apply_role(host, "baseline", entry_point="sysctl")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.usefixtures("_its_network_can_be_set")
def test_settings_that_the_kernel_does_not_take_are_an_error_and_not_kept(host: Host) -> None:
    wrong = {"net.ipv4.conf.lo.send_redirects": 0, "net.ipv4.conf.lo.nosuch_setting": 0}
    for _ in range(2):
        ended = apply_role(host, "baseline", entry_point="sysctl", baseline_sysctl=wrong)
        assert ended.returncode != 0
        assert "net/ipv4/conf/lo/nosuch_setting" in said(ended)
        assert not host.file("/etc/sysctl.d/90-lvao.conf").contains("nosuch_setting")
    host.check_output("sysctl --quiet net.ipv4.conf.lo.send_redirects=1")
    ended = apply_role(host, "baseline", entry_point="sysctl", baseline_sysctl={"net.ipv4.conf.lo.send_redirects": 0})
    assert ended.returncode == 0, ended.stdout
    assert host.check_output("sysctl --values net.ipv4.conf.lo.send_redirects") == "0"


def test_audit_rules_that_the_kernel_does_not_take_are_an_error_each_time(host: Host) -> None:
    for _ in range(2):
        ended = apply_role(host, "baseline", entry_point="audit", baseline_audit_rules=["-w nonsense -Q"])
        assert ended.returncode != 0
        assert "has not taken baseline_audit_rules" in said(ended)
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get purge --quiet=2 auditd && rm -r /etc/audit")


@pytest.fixture(scope="module")
def _turned_off(host: Host) -> Iterator[None]:
    """Take the baseline away for the tests that follow, and bring it back in the end."""
    assert all(host.file(file).exists for file in FILES)
    ended = apply_role(host, "baseline", baseline_enabled=False)
    assert ended.returncode == 0, ended.stdout
    yield
    ended = apply_role(host, "baseline")
    assert ended.returncode == 0, ended.stdout
    assert all(host.file(file).exists for file in FILES)


@pytest.mark.usefixtures("_turned_off")
def test_it_can_be_turned_off(host: Host) -> None:
    assert not any(host.file(file).exists for file in FILES)
    # What keeps Airflow's secrets from tasks stays.
    read = host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config").splitlines()
    assert {"kernel.yama.ptrace_scope = 1", "fs.protected_symlinks = 1"} <= set(read)
    assert "password" in ssh("debian", "-o", "BatchMode=yes", "-o", "PubkeyAuthentication=no").stderr
    assert ssh("root").stdout == "root\n"


@pytest.mark.usefixtures("_turned_off")
def test_who_comes_by_password_is_not_cut_off(host: Host) -> None:
    host.check_output(
        "id lodger || useradd --create-home lodger; echo lodger:of-no-key | chpasswd; "
        "echo 'lodger ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/lodger"
    )
    by_password = {
        "ansible_user": "lodger",
        "ansible_password": "of-no-key",
        "ansible_ssh_password_mechanism": "ssh_askpass",
        "ansible_ssh_private_key_file": "",
    }
    ended = apply_role(host, "baseline", **by_password)
    assert ended.returncode == 2, ended.stdout
    said = " ".join(ended.stdout.split())
    assert "Ansible does not get into lvao-molecule-roles as lodger by a key" in said
    assert "The SSH server's configuration was not changed." in said
    assert not host.file(SSHD).exists
    host.check_output("userdel --remove lodger && rm /etc/sudoers.d/lodger")


@pytest.mark.usefixtures("_turned_off")
def test_passwords_that_something_else_allows_are_an_error(host: Host) -> None:
    before = "/etc/ssh/sshd_config.d/00-site.conf"
    host.check_output(f"printf 'PasswordAuthentication yes\nKbdInteractiveAuthentication yes\n' > {before}")
    ended = apply_role(host, "baseline")
    # Root is locked out by now, whom the next test comes as.
    host.check_output(f"rm {before} {SSHD} && systemctl reload ssh")
    assert ended.returncode == 2, ended.stdout
    wanted = "passwordauthentication no, kbdinteractiveauthentication no"
    assert f"The SSH server of lvao-molecule-roles has not taken {wanted}:" in " ".join(ended.stdout.split())


@pytest.mark.usefixtures("_turned_off")
def test_root_logs_in_by_key_where_ansible_is_root(host: Host) -> None:
    ended = apply_role(host, "baseline", ansible_user="root")
    assert ended.returncode == 0, ended.stdout
    assert ssh("root").stdout == "root\n"
    assert "passwordauthentication no" in host.check_output("sshd -T").splitlines()
