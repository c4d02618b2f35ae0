"""What every host of an environment has."""

from conftest import apply_role, wait_for
from testinfra.host import Host


def test_the_clock_is_kept_right_from_the_next_boot_on(host: Host) -> None:
    assert host.service("systemd-timesyncd").is_enabled


def test_the_journal_outlives_a_boot_and_is_bounded(host: Host) -> None:
    host.check_output("logger --tag lvao-test kept && journalctl --sync")
    assert "kept" in host.check_output("journalctl --directory=/var/log/journal --identifier=lvao-test --no-pager")
    assert "SystemMaxUse=1G" in host.check_output("systemd-analyze cat-config systemd/journald.conf")


def test_the_journal_also_goes_to_the_server_of_the_site(host: Host) -> None:
    received = "/root/lvao-received"
    receive = "/usr/lib/systemd/systemd-journal-remote --listen-https=127.0.0.1:19532"
    receive += f" --key=/root/site.key --cert=/root/site.pem --output={received}"
    host.check_output("logger --tag lvao-test while it was away")
    host.check_output(f"mkdir -p {received} && systemd-run --unit=lvao-receiver {receive}")
    host.check_output("systemctl restart systemd-journal-upload")
    look = f"journalctl --directory={received} --identifier=lvao-test --no-pager"
    wait_for(lambda: "while it was away" in host.run(look).stdout, 15, "the server's copy")
    host.check_output(f"systemctl stop lvao-receiver && rm -r {received}")
    assert host.service("systemd-journal-upload").is_enabled
    assert host.check_output("stat --format='%a %U %G' /etc/lvao-journal-upload/key.pem") == (
        "640 root lvao-journal-upload"
    )


def test_the_journal_stays_on_the_host_again(host: Host) -> None:
    ended = apply_role(host, "common", entry_point="journal", common_journal_upload_url="")
    assert ended.returncode == 0, ended.stdout
    assert not host.service("systemd-journal-upload").is_enabled
    assert not host.service("systemd-journal-upload").is_running
    assert not host.file("/etc/lvao-journal-upload/key.pem").exists
    ended = apply_role(host, "common", entry_point="journal")
    assert ended.returncode == 0, ended.stdout


def test_the_packages_of_the_site_come_beside_those_of_the_role(host: Host) -> None:
    assert all(host.exists(program) for program in ("jq", "curl", "sudo"))


def test_a_pinned_program_is_there_until_the_site_no_longer_names_it(host: Host) -> None:
    assert host.check_output("lvao-port 20000").isdecimal()
    ended = apply_role(host, "common", entry_point="binaries", common_binaries=[])
    assert ended.returncode == 0, ended.stdout
    assert not host.exists("lvao-port")
    ended = apply_role(host, "common", entry_point="binaries")
    assert ended.returncode == 0, ended.stdout
    assert host.exists("lvao-port")


def test_other_hosts_are_known_by_name(host: Host) -> None:
    assert host.check_output("getent hosts lvao-elsewhere").split() == ["192.0.2.7", "lvao-elsewhere"]


def test_the_certificate_authority_of_the_site_is_trusted(host: Host) -> None:
    url = "https://127.0.0.1:4433"
    host.check_output(
        "systemd-run --unit=lvao-test openssl s_server -accept 4433 -www -cert /root/site.pem -key /root/site.key"
    )
    wait_for(lambda: host.run(f"curl --silent --fail --insecure {url}").succeeded, 10, "the server")
    answered = host.run(f"curl --silent --show-error --fail {url}")
    host.check_output("systemctl stop lvao-test")
    assert answered.succeeded, answered.stderr


def test_packages_come_through_the_proxy_of_the_site(host: Host) -> None:
    host.check_output("apt-get update -qq")
    assert "Established connection to host" in host.check_output(
        "journalctl --unit=tinyproxy --no-pager; cat /var/log/tinyproxy/*.log"
    )
