"""A firewall that lets in what it should and nothing else, at any time, and lets nobody lock themselves out."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import (
    INVENTORY,
    PROJECT,
    apply_role,
    assert_that_it_is_sandboxed,
    open_ports,
    unit_property,
    wait_for,
)
from testinfra.host import Host

ADDRESSES = ["172.29.214.11", "fd29:214::11"]
LISTENING = (1, 80, 443, 5432, 8080, 8090, 8793, 8794, 9099, 9100, 9110, 9111, 40000, 60010, 65535)
# Without who is connected right now.
TABLE = "nft --stateless --terse list table inet lvao"
RULES = "/etc/nftables-lvao.conf"
BEFORE = "/etc/nftables-lvao.before"
COMMAND = "/usr/local/sbin/lvao-firewall"
DROP_IN = "/etc/systemd/system/nftables.service.d"
SITE = "inet site"
SAY_HELLO = """
import socket, sys
kind, protocol, port = map(int, sys.argv[2:])
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, kind, protocol) as client:
    client.settimeout(1)
    client.connect((sys.argv[1], port))
    client.send(b"\\x80\\0\\0\\0\\0\\1\\0\\1" if protocol == socket.IPPROTO_ICMPV6 else b"\\x08\\0\\0\\0\\0\\1\\0\\1")
    sys.exit(not client.recv(100))
"""
KNOCK = """
import itertools, socket, sys, time
end = time.monotonic() + 5
for count in itertools.count():
    if time.monotonic() > end:
        break
    try:
        socket.create_connection(("172.29.214.11", 5432), 1).close()
        sys.exit("let in")
    except OSError:
        pass
print(count)
"""
# Opens connections as fast as it can, says how many it has, and keeps them until it is told to end.
FLOOD = """
import resource, select, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
poll = select.poll()
clients = []
for number in range(int(sys.argv[2])):
    clients.append(socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET))
    clients[-1].setblocking(False)
    clients[-1].connect_ex((sys.argv[1], 8080))
    poll.register(clients[-1], select.POLLOUT)
time.sleep(2)
print(sum(event == select.POLLOUT for _, event in poll.poll(0)), flush=True)
sys.stdin.read()
"""


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], text=True, capture_output=True, check=False)


def test_its_unit_is_closed_to_what_it_does_not_need(host: Host) -> None:
    assert_that_it_is_sandboxed(host, "lvao-firewall", 2.5)


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, str]]:
    """Start two containers beside the host: one whose addresses its rules name, and a stranger."""
    image = f"lvao-systemd:debian{os.environ.get('DEBIAN') or '13'}"
    names = {"friend": 21, "stranger": 22}
    for name, number in names.items():
        addresses = ["--ip", f"172.29.214.{number}", "--ip6", f"fd29:214::{number}"]
        network = ["--network", "lvao-molecule-firewall", *addresses]
        started = docker("run", "--detach", "--name", f"lvao-molecule-firewall-{name}", *network, image, "sleep", "inf")
        assert started.returncode == 0, started.stderr
    yield {name: f"lvao-molecule-firewall-{name}" for name in names}
    docker("rm", "--force", *(f"lvao-molecule-firewall-{name}" for name in names))


@pytest.fixture(scope="module", autouse=True)
def _listeners(host: Host) -> None:
    """Listen on many ports, of which most are closed to others."""
    source = Path(__file__).with_name("listeners.py").read_text()
    host.check_output(f"printf %s {shlex.quote(source)} > /root/listeners.py")
    command = f"/usr/bin/python3 /root/listeners.py {' '.join(map(str, LISTENING))}"
    unit = f"[Service]\nExecStart={command}\n[Install]\nWantedBy=multi-user.target\n"
    host.check_output(f"printf %s {shlex.quote(unit)} > /etc/systemd/system/lvao-test.service")
    host.check_output("systemctl daemon-reload && systemctl enable --now lvao-test")
    wait_for(lambda: host.socket(f"tcp://:::{LISTENING[-1]}").is_listening, 10, "the listeners")


@pytest.fixture(scope="module")
def wanted(host: Host) -> str:
    """Read the rules that the role made."""
    return host.check_output(TABLE)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_stranger_finds_what_is_for_everybody(clients: dict[str, str], address: str) -> None:
    assert open_ports(address, clients["stranger"]) == [22, 8080]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_friend_finds_what_is_for_friends_too(clients: dict[str, str], address: str) -> None:
    assert open_ports(address, clients["friend"]) == [22, 8080, 8793, 8794, 9100, 9110]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", *ADDRESSES])
def test_the_host_itself_finds_everything(host: Host, address: str) -> None:
    for port in LISTENING:
        assert host.run(f"python3 -c {shlex.quote(SAY_HELLO)} {address} 1 0 {port}").stderr.find("refused") < 0
    assert host.run(f"python3 -c {shlex.quote(SAY_HELLO)} {address} 2 0 9999").succeeded


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_friend_alone_finds_udp_ports_and_those_of_its_rule_alone(clients: dict[str, str], address: str) -> None:
    def finds(client: str, port: str) -> bool:
        ended = docker("exec", clients[client], "python3", "-c", SAY_HELLO, address, "2", "0", port)
        assert ended.returncode == 0 or "timed out" in ended.stderr, ended.stderr
        return ended.returncode == 0

    assert [port for port in ("161", "9100", "9999", "60010") if finds("friend", port)] == ["161", "60010"]
    assert not finds("stranger", "161")


@pytest.mark.parametrize(("address", "protocol"), [(ADDRESSES[0], "1"), (ADDRESSES[1], "58")])
def test_it_answers_a_ping(clients: dict[str, str], address: str, protocol: str) -> None:
    ended = docker("exec", clients["stranger"], "python3", "-c", SAY_HELLO, address, "2", protocol, "0")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("address", ["172.29.214.22", "fd29:214::22"])
def test_the_host_gets_answers(host: Host, clients: dict[str, str], address: str) -> None:
    docker("cp", str(Path(__file__).with_name("listeners.py")), f"{clients['stranger']}:/root/")
    docker("exec", "--detach", clients["stranger"], "python3", "/root/listeners.py", "7000")
    command = f"python3 -c {shlex.quote(SAY_HELLO)} {address} 2 0 9999"
    wait_for(lambda: host.run(command).succeeded, 10, "an answer")
    assert "refused" not in host.run(f"python3 -c {shlex.quote(SAY_HELLO)} {address} 1 0 7000").stderr


@pytest.mark.parametrize(("address", "beside"), zip(ADDRESSES, [[22, 8080], [22]], strict=True))
def test_one_source_cannot_take_all_connections(clients: dict[str, str], address: str, beside: list[int]) -> None:
    """The friend is in the same IPv6 network, which counts as one source."""
    flood = ["docker", "exec", "--interactive", clients["stranger"], "python3", "-c", FLOOD, address, "8000"]
    with subprocess.Popen(flood, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flooding:
        assert 100 < int(flooding.stdout.readline()) <= 500
        assert open_ports(address, clients["friend"], [22, 8080]) == beside
        assert open_ports(address, clients["stranger"], [22, 8080]) == [22]
        flooding.communicate()


def test_no_moment_is_without_rules(host: Host, clients: dict[str, str]) -> None:
    knocking = subprocess.Popen(
        ["docker", "exec", clients["friend"], "python3", "-c", KNOCK], stdout=subprocess.PIPE, text=True
    )
    for action in ["reload", "restart"] * 3:
        host.check_output(f"systemctl {action} lvao-firewall")
        time.sleep(0.5)
    assert int(knocking.communicate()[0] or 0) > 500
    assert knocking.returncode == 0


def test_tables_of_others_stay(host: Host, wanted: str) -> None:
    host.check_output("nft add table inet lvao_test")
    for action in ("reload", "restart", "stop", "start"):
        host.check_output(f"systemctl {action} lvao-firewall")
        assert "table inet lvao_test" in host.check_output("nft list tables")
    host.check_output("nft delete table inet lvao_test")
    assert host.check_output(TABLE) == wanted


@pytest.mark.parametrize("action", ["reload", "restart"])
def test_rules_that_do_not_load_leave_those_that_are(host: Host, wanted: str, action: str) -> None:
    host.check_output(f"cp {RULES} /root/rules && echo 'add rule inet lvao nowhere accept' >> {RULES}")
    assert host.run(f"systemctl {action} lvao-firewall").failed
    assert host.check_output(TABLE) == wanted
    tried = host.run(f"{COMMAND} try 60")
    assert "No such file or directory" in tried.stderr
    assert tried.rc == 1
    assert host.check_output(TABLE) == wanted
    assert host.run(f"systemctl is-active --quiet lvao-firewall-back.timer || [ -e {BEFORE} ]").failed
    host.check_output(
        f"cp /root/rules {RULES} && systemctl reset-failed lvao-firewall && systemctl restart lvao-firewall"
    )
    assert host.check_output(TABLE) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"firewall_ssh_sources": ["192.0.2.0/24", "2001:db8::/32"]},
            "from 172.29.214.1, at port 22: firewall_ssh_sources is 192.0.2.0/24, 2001:db8::/32. Add 172.29.214.1, or",
        ),
        (
            {"firewall_ssh_port": 2222},
            "from 172.29.214.1, at port 22: firewall_ssh_port is 2222. Set it to 22. No rule",
        ),
        # UDP lets no SSH in.
        (
            {
                "firewall_ssh_sources": [],
                "firewall_extra_rules": [
                    {"comment": "all", "protocol": "udp", "ports": ["1-65535"], "sources": ["0.0.0.0/0"]}
                ],
            },
            "from 172.29.214.1, at port 22: firewall_ssh_sources is empty. Add 172.29.214.1, or a network",
        ),
        # The very same for one who comes by IPv6.
        (
            {"firewall_ssh_sources": ["172.29.214.0/24"], "ansible_host": "fd29:214::11"},
            "from fd29:214::1, at port 22: firewall_ssh_sources is 172.29.214.0/24. Add fd29:214::1, or a network",
        ),
    ],
)
def test_who_would_be_cut_off_is_told_so(host: Host, wanted: str, values: dict, message: str) -> None:
    before = host.file(RULES).content
    ended = converge(host, **values)
    assert ended.returncode == 2, ended.stdout
    assert message in " ".join(ended.stdout.split())
    assert host.file(RULES).content == before
    assert host.check_output(TABLE) == wanted


def converge(host: Host, *arguments: str, **values: object) -> subprocess.CompletedProcess[str]:
    """Apply the role, with some values changed."""
    return apply_role(host, "firewall", *arguments, **values)


def test_sources_may_be_narrowed_to_where_ansible_is(host: Host, clients: dict[str, str]) -> None:
    ended = converge(host, firewall_ssh_sources=["172.29.214.0/28", "fd29:214::1"], firewall_public_ports=[])
    assert ended.returncode == 0, ended.stdout
    ports = [22, 8080]
    assert [open_ports(address, clients["stranger"], ports) for address in ADDRESSES] == [[], []]
    assert open_ports(ADDRESSES[1], None, ports) == [22]
    ended = converge(host)
    assert ended.returncode == 0, ended.stdout


@contextmanager
def rules_without_ssh(host: Host, seconds: int) -> Iterator[None]:
    """Try rules that let no new SSH connection in."""
    before = host.file(RULES).content
    host.check_output(f"sed -i '/\"SSH\"/d' {RULES} && {COMMAND} try {seconds}")
    assert '"SSH"' not in host.check_output(TABLE)
    yield
    assert host.file(RULES).content != before  # nft writes them its own way
    ended = converge(host)
    assert ended.returncode == 0, ended.stdout
    assert host.file(RULES).content == before


def test_rules_that_nobody_confirms_go_by_themselves(host: Host, wanted: str) -> None:
    with rules_without_ssh(host, 5):
        assert open_ports(ADDRESSES[0], None, [22, 8080]) == [8080]
        wait_for(lambda: host.run(TABLE).stdout.strip() == wanted, 15, "the rules before")
        host.check_output("systemctl restart lvao-firewall")
        assert host.check_output(TABLE) == wanted
        assert host.run(f"{COMMAND} confirm").stderr.strip().endswith("in time: the ones before are back.")


def test_rules_that_let_no_new_connection_in_fail_and_go(host: Host, wanted: str) -> None:
    # The connection that is there goes on, for a minute; that does not count.
    name = host.backend.get_hostname()
    subprocess.run(["ansible", "-i", INVENTORY, name, "-m", "ping"], cwd=PROJECT, check=True)
    host.check_output(
        "nft 'add table inet lvao_test; add chain inet lvao_test in { type filter hook input priority -1; }'"
    )
    host.check_output("nft add rule inet lvao_test in ct state new tcp dport 22 reject")
    there = f"[ -e {BEFORE} ]"
    wait = f"until {there}; do sleep 0.2; done; while {there}; do sleep 0.2; done; nft delete table inet lvao_test"
    host.check_output(f"systemd-run --collect sh -c {shlex.quote(wait)}")
    ended = converge(host, firewall_public_ports=[443], firewall_confirm_timeout=5)
    assert ended.returncode == 2, ended.stdout
    said = " ".join(ended.stdout.split())
    assert "No new connection came through the new rules in time: the ones before are back." in said, said
    assert host.check_output(TABLE) == wanted
    assert converge(host).returncode == 0
    assert host.check_output(TABLE) == wanted


def test_who_adds_a_rule_by_hand_is_found_out(host: Host, wanted: str) -> None:
    for drift in ("insert rule inet lvao input tcp dport 5432 accept", "delete table inet lvao"):
        host.check_output(f"nft {drift}")
        assert "changed=3" in converge(host).stdout
        assert host.check_output(TABLE) == wanted


def restart(host: Host) -> None:
    """Boot the host anew."""
    assert docker("restart", host.backend.get_hostname()).returncode == 0
    wait_for(lambda: host.run("systemctl is-active --quiet ssh lvao-test").succeeded, 30, "the host")


def test_rules_are_there_from_the_start_of_a_boot_on_with_those_of_the_site(host: Host, wanted: str) -> None:
    # As Debian has it: it flushes the tables of everybody.
    host.check_output(f"printf 'flush ruleset\ntable {SITE}\n' > /etc/nftables.conf")
    for action in ("enable --now", "reload", "restart", "stop", "start"):
        host.check_output(f"systemctl {action} nftables")
        assert host.check_output(TABLE) == wanted, f"after {action}"
    restart(host)
    assert host.check_output(TABLE) == wanted
    assert SITE in host.check_output("nft list tables")
    loaded = int(unit_property(host, "lvao-firewall", "ActiveEnterTimestampMonotonic"))
    assert 0 < loaded <= int(unit_property(host, "ssh", "InactiveExitTimestampMonotonic"))
    assert {"network-pre.target", "sysinit.target"} <= {*unit_property(host, "lvao-firewall", "Before").split()}


def test_a_boot_does_not_confirm_rules(host: Host, wanted: str) -> None:
    with rules_without_ssh(host, 300):
        restart(host)
        assert host.check_output(TABLE) == wanted


def test_what_version_0_1_0_left_goes(host: Host, wanted: str) -> None:
    old = "[Service]\nExecStart=\nExecStart=/usr/local/sbin/lvao-firewall load\nExecStop=\n"
    host.check_output(f"printf '{old}' > {DROP_IN}/lvao.conf && rm {DROP_IN}/lvao-firewall.conf")
    host.check_output("systemctl disable lvao-firewall && systemctl daemon-reload && systemctl restart nftables")
    host.check_output("nft add table inet lvao_test")
    for check in (["--check"], []):
        ended = converge(host, *check)
        assert ended.returncode == 0, ended.stdout
    assert "lvao_test" in host.check_output("nft list tables")
    assert host.check_output(TABLE) == wanted
    assert not host.service("nftables").is_enabled
    assert host.service("lvao-firewall").is_enabled
    assert host.check_output(f"ls {DROP_IN}") == "lvao-firewall.conf"
    host.check_output("systemctl enable --now nftables")


def test_it_can_be_turned_off(host: Host, clients: dict[str, str], wanted: str) -> None:
    ended = converge(host, firewall_enabled=False)
    assert ended.returncode == 0, ended.stdout
    for _ in range(2):
        wait_for(lambda: open_ports(ADDRESSES[0], clients["stranger"], LISTENING) == list(LISTENING), 15, "open ports")
        assert SITE in host.check_output("nft list tables")
        restart(host)
    assert not host.check_output(f"ls {DROP_IN}")
    assert "changed=0" in converge(host, firewall_enabled=False).stdout
    assert converge(host).returncode == 0
    assert host.check_output(TABLE) == wanted
