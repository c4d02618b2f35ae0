"""Airflow as people see it: a browser, over HTTPS."""

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from conftest import PROJECT, Airflow, Public, signed_like, value
from playwright.sync_api import Error, Page, sync_playwright
from testinfra.host import Host

DOMAIN = "airflow.lvao.test"
PICTURES = PROJECT / ".cache/pictures"
# Nothing that it asks for by itself; the rest, Debian's Chromium wants as root.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def public(host: Host) -> Public:
    """The public side of its reverse proxy."""
    return Public(host, DOMAIN)


@pytest.fixture(scope="module")
def page(public: Public, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of a browser that trusts the proxy's authority, and knows where its domain is."""
    home = tmp_path_factory.mktemp("home")
    (home / "root.crt").write_text(public.authority)
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    for arguments in (["-N", "--empty-password"], ["-A", "-n", "lvao", "-t", "C,,", "-i", home / "root.crt"]):
        subprocess.run(["certutil", "-d", f"sql:{store}", *arguments], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[
                *QUIET,
                "--no-sandbox",
                "--disable-dev-shm-usage",
                f"--host-resolver-rules=MAP {DOMAIN} {public.address}",
            ],
            env=os.environ | {"HOME": str(home)},
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def log_in(page: Page, password: str) -> None:
    """Log in as admin, again where a host of another test that came or went has changed this machine's network.

    For that, Chromium drops what it loads.
    """
    for more in (True, True, False):
        try:
            page.goto(f"https://{DOMAIN}/")
            page.locator("#username").fill("admin")
            page.locator("#password").fill(password)
            with page.expect_navigation():
                page.locator("[type=submit]").click()
        except Error as error:
            if not more or "ERR_NETWORK_CHANGED" not in str(error):
                raise
        else:
            return


def test_nobody_sees_anything_without_logging_in(public: Public) -> None:
    assert [public.ask("GET", f"/api/v2/{what}")[0].status for what in ("dags", "connections")] == [401, 401]
    # Pages that run another site's scripts.
    assert [b"swagger" in public.ask("GET", path)[1].lower() for path in ("/docs", "/redoc")] == [False, False]


def test_a_wrong_password_is_refused(page: Page) -> None:
    log_in(page, "wrong")
    page.get_by_text("Invalid login").wait_for()
    assert "Traceback" not in page.content()


def test_a_person_logs_in_and_reads_the_log_of_a_task(page: Page, airflow: Airflow) -> None:
    token = secrets.token_hex(8)
    run_id = airflow.trigger("log_canary", {"token": token})
    assert airflow.finish("log_canary", run_id) == "success"
    log_in(page, airflow.password)
    page.get_by_text("Dags").first.wait_for()
    page.goto(f"https://{DOMAIN}/dags/log_canary/runs/{run_id}/tasks/write_token")
    page.get_by_text(token).first.wait_for()
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "log.png")
    cookies = [cookie for cookie in page.context.cookies() if cookie["httpOnly"]]
    assert cookies
    assert all(cookie["secure"] for cookie in cookies)


def test_a_session_that_has_expired_must_log_in_again(host: Host, page: Page) -> None:
    token = next(cookie for cookie in page.context.cookies() if cookie["name"] == "_token")
    expired = signed_like(token["value"], value(host, "airflow_jwt_secret"), exp=time.time() - 60)
    page.context.add_cookies([token | {"value": expired}])
    database = value(host, "airflow_database_name")
    query = "UPDATE session SET expiry = now() - interval '1 minute'"
    host.check_output(f'runuser -u postgres -- psql {database} -c "{query}"')
    page.goto(f"https://{DOMAIN}/dags/log_canary")
    page.locator("#password").wait_for()
    assert "Traceback" not in page.content()


# As fast as a browser may: pages would take longer than the limit counts, where the machine is slow.
GUESS = """async (count) => {
    const csrf_token = document.querySelector("input[name=csrf_token]").value, statuses = [];
    for (let number = 0; number < count; number++) {
        const body = new URLSearchParams({csrf_token, username: "admin", password: "wrong"});
        statuses.push((await fetch(location.href, {method: "POST", redirect: "manual", body})).status);
    }
    return statuses;
}"""


def test_guesses_of_a_password_are_limited_for_each_who_guesses(host: Host, page: Page) -> None:
    page.goto(f"https://{DOMAIN}/auth/login/")
    assert page.evaluate(GUESS, 8)[-1] == 429
    log_in(page, "wrong")
    assert "Traceback" not in page.content()
    # Another client, though the proxy asks for both, may still try.
    url = f"https://{DOMAIN}/auth/login/"
    cookies = "--cookie /root/cookies --cookie-jar /root/cookies"
    ask = f"curl --silent --insecure --resolve {DOMAIN}:443:127.0.0.1 {cookies} --referer {url}"
    form = re.search('csrf_token"[^>]* value="([^"]+)"', host.check_output(f"{ask} {url}"))
    tried = f"{ask} --data 'username=admin&password=wrong&csrf_token={form[1]}' --write-out '%{{http_code}}' {url}"
    assert host.check_output(tried).endswith("302")
