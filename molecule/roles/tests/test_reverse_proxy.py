"""A reverse proxy that holds requests while what is behind it restarts."""

import json
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from conftest import apply_role, assert_that_it_is_sandboxed, steady_requests, unit_property, wait_for
from testinfra.host import Host

# Airflow's webserver is away meanwhile.
pytestmark = pytest.mark.last
WEBSERVER, UPSTREAM = "lvao-airflow-webserver", "lvao-test-upstream"
PRIVATE, PUBLIC = "caddy-private", "caddy"
# More connections than it lets wait.
CONNECT = """
import socket, time
waiting = [socket.socket() for _ in range(200)]
for one in waiting:
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", 8081))
time.sleep(6)
"""


@pytest.fixture(scope="module")
def url(host: Host) -> str:
    """Address of the proxy, as others than its host reach it."""
    return f"http://{host.check_output('hostname --ip-address')}:8080"


def run_upstream(host: Host) -> Iterator[None]:
    """Run an upstream whose restart takes four seconds and more in the webserver's place, as a fixture does."""
    source = Path(__file__).with_name("upstream.py").read_text()
    host.check_output(f"cat > /root/upstream.py <<'EOF'\n{source}\nEOF")
    host.check_output(f"systemctl stop {WEBSERVER}")
    properties = "-p 'ExecStartPre=/usr/bin/sleep 4' -p KillMode=mixed"
    host.check_output(f"systemd-run --no-block --unit={UPSTREAM} {properties} python3 /root/upstream.py")
    wait_for(lambda: host.file("/run/lvao-airflow/lvao-airflow-webserver/gate").exists, 15, "the upstream")
    yield
    host.check_output(f"systemctl stop {UPSTREAM} && systemctl start --no-block {WEBSERVER}")


@pytest.fixture(scope="module", autouse=True)
def _upstream(host: Host) -> Iterator[None]:
    yield from run_upstream(host)


def test_no_request_fails_while_the_upstream_restarts(host: Host, url: str) -> None:
    with steady_requests([("GET", f"{url}/", None), ("POST", f"{url}/", {"name": "x"})]) as answers:
        time.sleep(2)
        for _ in range(3):
            host.check_output(f"systemctl restart {UPSTREAM}")
            time.sleep(2)
    assert len(answers) > 300
    assert {answer.status for answer in answers} == {200}
    assert max(answer.seconds for answer in answers) > 4


def test_what_is_under_way_ends_well(host: Host, url: str) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(requests.post, f"{url}/?6", data="slow", timeout=30)
        time.sleep(1)
        host.check_output(f"systemctl restart {UPSTREAM}")
        assert answer.result().text == "slow"


def test_a_large_body_arrives_whole_though_it_is_held(host: Host, url: str) -> None:
    body = os.urandom(5_000_000)
    host.check_output(f"systemctl restart --no-block {UPSTREAM}")
    wait_for(lambda: unit_property(host, UPSTREAM, "SubState") == "start-pre", 10, "the upstream to be away")
    assert requests.post(f"{url}/", data=body, headers={"Expect": "100-continue"}, timeout=30).content == body


def test_a_body_arrives_whole_though_the_upstream_is_busy(host: Host, url: str) -> None:
    host.check_output(f"systemctl kill --signal=STOP {UPSTREAM}")
    with ThreadPoolExecutor() as pool:
        pool.submit(host.check_output, f"python3 -c {shlex.quote(CONNECT)}")
        time.sleep(1)
        answer = pool.submit(requests.post, f"{url}/", data="whole", timeout=60)
        # For longer than Caddy tries by itself: its second try would be without the body.
        time.sleep(5)
        host.check_output(f"systemctl kill --signal=CONT {UPSTREAM}")
        assert answer.result().text == "whole"


def test_a_request_that_the_upstream_took_is_not_repeated(host: Host, url: str) -> None:
    """What has cost one webserver its memory would cost the next its own."""
    assert requests.get(f"{url}/broken", timeout=30).status_code == 502
    assert host.check_output("cat /run/lvao-test-broken; rm /run/lvao-test-broken") == "/broken"


def test_a_request_that_the_upstream_did_not_take_is_held_though_the_gate_is_open(host: Host, url: str) -> None:
    """As for a moment after a crash."""
    host.check_output(f"systemctl restart --no-block {UPSTREAM}")
    wait_for(lambda: unit_property(host, UPSTREAM, "SubState") == "start-pre", 10, "the upstream to be away")
    host.check_output("touch /run/lvao-airflow/lvao-airflow-webserver/gate")
    assert requests.get(f"{url}/", timeout=30).status_code == 200


def test_the_webserver_stands_in_for_the_execution_api(host: Host, url: str) -> None:
    def served_by_the_upstream() -> bool:
        return '["Host",' in requests.get(f"{url}/execution/health", timeout=30).text

    assert not served_by_the_upstream()
    host.check_output("systemctl stop lvao-airflow-execution-api")
    assert served_by_the_upstream()
    host.check_output("systemctl start lvao-airflow-execution-api")
    assert not served_by_the_upstream()


def test_a_stream_arrives_as_it_is_made_and_outlives_a_reload(host: Host, url: str) -> None:
    began = time.monotonic()
    with requests.get(f"{url}/?6", stream=True, timeout=30) as answer:
        arrived = {}
        for line in answer.iter_lines(chunk_size=1):
            arrived[line] = time.monotonic() - began
            if line == b"1":
                host.check_output(f"systemctl reload {PRIVATE}")
    assert list(arrived) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert arrived[b"0"] < 1
    assert arrived[b"5"] > 4


def test_a_reload_of_the_proxy_is_no_outage(host: Host, url: str) -> None:
    with steady_requests([("GET", f"{url}/", None), ("POST", f"{url}/", {"name": "x"})], per_second=50) as answers:
        for _ in range(5):
            host.check_output(f"systemctl reload {PRIVATE}")
            time.sleep(1)
    assert len(answers) > 200
    # A reload may reset a connection that comes at that moment; only a change of the configuration of Caddy reloads it.
    assert sum(answer.status != 200 for answer in answers) <= 5


def test_the_upstream_is_told_who_asks_and_nobody_forges_it(url: str) -> None:
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
    lines = requests.get(f"{url}/", headers=forged, timeout=30).text.splitlines()
    told = dict(json.loads(line) for line in lines)
    assert "192.0.2.1" not in told["X-Forwarded-For"]
    assert told["X-Forwarded-Proto"] == "http"
    assert f"http://{told['Host']}" == url


@pytest.mark.parametrize("unit", [PRIVATE, PUBLIC])
def test_it_is_closed_to_what_it_does_not_need(host: Host, unit: str) -> None:
    assert_that_it_is_sandboxed(host, unit)
    limits = {name: unit_property(host, unit, name) for name in ("LimitNOFILE", "LimitCORE", "TasksMax")}
    assert limits == {"LimitNOFILE": "65536", "LimitCORE": "0", "TasksMax": "512"}
    total = int(host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) // 1024
    memory_mb = 256 if unit == PRIVATE else max(256, total // 256 * 32)
    assert unit_property(host, unit, "MemoryMax") == str(memory_mb * 2**20)
    assert unit_property(host, unit, "Environment").endswith(f"GOMEMLIMIT={memory_mb * 9 // 10}MiB")


@pytest.mark.parametrize("unit", [PRIVATE, PUBLIC])
def test_it_may_listen_below_port_1024_and_has_no_other_privilege(host: Host, unit: str) -> None:
    # In a container everybody may.
    status = host.check_output(f"cat /proc/{unit_property(host, unit, 'MainPID')}/status")
    privileges = {name: int(mask, 16) for name, mask in re.findall(r"^Cap(\w+):\s+(\w+)$", status, re.MULTILINE)}
    cap_net_bind_service = 1 << 10
    assert privileges == dict.fromkeys(("Inh", "Prm", "Eff", "Bnd", "Amb"), cap_net_bind_service)


@pytest.mark.parametrize(
    ("unit", "named"),
    [
        (PRIVATE, "/run/caddy-private /tmp /var/lib/caddy-private /var/tmp"),
        (PUBLIC, "/run/caddy /tmp /var/lib/caddy /var/tmp"),
    ],
)
def test_what_it_may_write_to_is_named(host: Host, unit: str, named: str) -> None:
    mounts = host.check_output(f"cat /proc/{unit_property(host, unit, 'MainPID')}/mountinfo").splitlines()
    writable = {path for _, _, _, _, path, options, *_ in map(str.split, mounts) if options.startswith("rw")}
    of_the_kernel = {path for path in writable if path.startswith(("/dev/", "/proc", "/sys/"))}
    assert " ".join(sorted(writable - of_the_kernel)) == named


def test_what_strangers_take_down_is_the_public_side_alone(host: Host, url: str) -> None:
    host.check_output(f"systemctl stop {PUBLIC}")
    try:
        assert [requests.get(f"{url}/{path}", timeout=30).status_code for path in ("", "execution/health")] == [200] * 2
    finally:
        host.check_output(f"systemctl start {PUBLIC}")


def test_it_outlasts_tasks_at_a_shutdown(host: Host) -> None:
    assert "lvao-airflow-shutdown.service" in unit_property(host, PRIVATE, "Before").split()


# The socket has no name to be called by.
ASK_FOR_CONFIGURATION = (
    "curl --silent --fail --header 'Host;' --unix-socket /run/caddy-private/admin.sock http://localhost/config/"
)


def test_nobody_else_configures_it(host: Host) -> None:
    assert host.run(ASK_FOR_CONFIGURATION).succeeded
    assert host.run(f"runuser -u nobody -- {ASK_FOR_CONFIGURATION}").failed


def test_it_runs_now_and_at_boot_and_after_a_failure(host: Host, url: str) -> None:
    assert host.service(PRIVATE).is_enabled
    before = unit_property(host, PRIVATE, "MainPID")
    host.check_output(f"kill -KILL {before}")
    wait_for(lambda: unit_property(host, PRIVATE, "MainPID") not in {"0", before}, 15, "it to come back")
    wait_for(lambda: host.service(PRIVATE).is_running, 15, "it to run")
    assert requests.get(f"{url}/", timeout=30).status_code == 200


def test_a_reload_that_failed_is_made_good_by_the_next_run_and_slow_clients_are_cut_off(host: Host, url: str) -> None:
    broken = f"/run/systemd/system/{PRIVATE}.service.d"
    # A body has 3 s, and an answer 7.
    values = {
        "reverse_proxy_hold": "2s",
        "reverse_proxy_body_timeout": "1s",
        "reverse_proxy_response_timeout": "5s",
    }
    loaded = '"read_timeout":3000000000,'
    host.check_output(f"mkdir {broken} && printf '[Service]\nExecReload=\nExecReload=false\n' > {broken}/broken.conf")
    host.check_output("systemctl daemon-reload")
    try:
        failed = apply_role(host, "reverse_proxy", **values)
    finally:
        host.check_output(f"rm --recursive {broken} && systemctl daemon-reload")
    assert failed.returncode != 0
    assert loaded not in host.check_output(ASK_FOR_CONFIGURATION)
    assert apply_role(host, "reverse_proxy", **values).returncode == 0
    assert loaded in host.check_output(ASK_FOR_CONFIGURATION)
    assert_that_slow_clients_are_cut_off(url)
    assert apply_role(host, "reverse_proxy").returncode == 0
    assert loaded not in host.check_output(ASK_FOR_CONFIGURATION)


def assert_that_slow_clients_are_cut_off(url: str) -> None:
    """Check what becomes of a body that takes longer than 3 s, and of answers within 7 s and beyond."""
    began = time.monotonic()
    with socket.create_connection((urlsplit(url).hostname, 8080), timeout=30) as client, suppress(ConnectionError):
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
        while client.recv(1000):
            pass
    assert 2 < time.monotonic() - began < 7
    assert len(requests.get(f"{url}/?5", timeout=30).text.splitlines()) == 5
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{url}/?9", timeout=30)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"reverse_proxy_host": "192.0.2.1"},
            "reverse_proxy_host is '192.0.2.1': it must be 127.0.0.1, 0.0.0.0, or an address of the",
        ),
        (
            {"reverse_proxy_port": 22},
            "is 22, reverse_proxy_private_port 8443 and reverse_proxy_domain wants 80 and 443, on which ssh.service",
        ),
    ],
)
def test_what_cannot_work_is_refused_and_changes_nothing(host: Host, values: dict, message: str) -> None:
    before = host.file("/etc/caddy-private/Caddyfile").content
    ended = apply_role(host, "reverse_proxy", **values)
    assert ended.returncode == 2, ended.stdout
    assert message in " ".join(ended.stdout.replace('\\"', '"').split())
    assert host.file("/etc/caddy-private/Caddyfile").content == before
