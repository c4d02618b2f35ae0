"""What a site installs beside Debian's own packages: repositories of apt, and programs pinned by their SHA-256."""

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles/common"
SPEC = importlib.util.spec_from_file_location("sources", ROLE / "filter_plugins/sources.py")
FILTERS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FILTERS)
KEY = f"{FILTERS.KEY_BEGINS}\n\nmDME\n-----END PGP PUBLIC KEY BLOCK-----"
PGDG = {
    "name": "pgdg",
    "uris": ["https://packages.lvao.test/pgdg"],
    "suites": ["bookworm-pgdg"],
    "components": ["main"],
    "signed_by": KEY,
}
ZEROS = "0" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "PG DG"}, "PG DG in common_apt_repositories: name must have small letters"),
        ({"uris": ["ftp://x/", "https://me:pw@x/"]}, "uris holds ftp://x/, https://me:pw@x/: each must be a https://"),
        ({"uris": []}, "uris and suites must each name one or more"),
        ({"components": []}, "components must name one or more, such as main; a suite that ends with / has none"),
        ({"suites": ["./"]}, "components must name one or more, such as main; a suite that ends with / has none"),
        ({"signed_by": "/nowhere.asc"}, "signed_by is not valid: it must be a key that begins with -----BEGIN PGP"),
        ({"signed_by": sys.executable}, "holds no key in ASCII armour: convert it with gpg --enarmor"),
    ],
)
def test_a_repository_that_apt_cannot_use_is_refused(changed: dict, said: str) -> None:
    (fault,) = FILTERS.repository_faults([PGDG | changed])
    assert said in fault


def test_a_repository_stands_once_and_may_have_its_key_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key.asc"
    path.write_text(f"Comment\n{KEY}\n")
    flat = {"name": "flat", "uris": "https://x/", "suites": "./", "signed_by": str(path)}
    assert FILTERS.repository_faults([PGDG, flat]) == []
    assert FILTERS.signing_key(str(path)).endswith("-----END PGP PUBLIC KEY BLOCK-----\n")
    (fault,) = FILTERS.repository_faults([PGDG, PGDG])
    assert "common_apt_repositories holds pgdg 2 times: each name must stand once" in fault


@pytest.mark.parametrize(
    ("binary", "said"),
    [
        (
            {"name": "../scw", "url": "https://x/scw", "sha256": ZEROS},
            "../scw in common_binaries: name must be that",
        ),
        ({"name": "airflow", "url": "https://x/scw", "sha256": ZEROS}, "such as scw, and not airflow"),
        ({"name": "scw", "sha256": ZEROS}, "scw in common_binaries: it must have either a url or a path"),
        ({"name": "scw", "url": "https://x/", "path": "/x", "sha256": ZEROS}, "it must have either a url or a path"),
        ({"name": "scw", "url": "https://me:pw@x/scw", "sha256": ZEROS}, "url is https://me:pw@x/scw: it must be a"),
        ({"name": "scw", "url": "https://x/scw", "sha256": "latest"}, "sha256 must be 64 hexadecimal digits"),
        ({"name": "scw", "path": "/nowhere", "sha256": ZEROS}, "path is /nowhere, which is no file on the controller"),
        ({"name": "scw", "path": __file__, "sha256": ZEROS}, f"{__file__} has the SHA-256 "),
    ],
)
def test_a_program_that_is_not_pinned_is_refused(binary: dict, said: str) -> None:
    (fault,) = FILTERS.binary_faults([binary])
    assert said in fault


def install(root: Path, *binaries: dict[str, str], check: bool = False) -> dict:
    """Run the module as Ansible runs it, with files of the controller copied as the role copies them."""
    folder = root / "lib"
    placed = FILTERS.pinned_binaries(binaries)
    for binary in placed:
        if path := binary.get("path"):
            folder.mkdir(exist_ok=True)
            (folder / binary["incoming"]).write_bytes(Path(path).read_bytes())
    (root / "bin").mkdir(exist_ok=True)
    arguments = {"binaries": placed, "folder": str(folder), "links": str(root / "bin")}
    ended = subprocess.run(
        [sys.executable, ROLE / "library/pinned_binaries.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments | {"_ansible_check_mode": check}}),
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(ended.stdout)


def program(root: Path, says: str, name: str = "scw") -> dict[str, str]:
    """Make a program that says something, to be fetched by an address."""
    path = root / f"{name}-{says}"
    path.write_text(f"#!/bin/sh\necho {says}\n")
    return {"name": name, "url": path.as_uri(), "sha256": sha256(path.read_bytes())}


def says(root: Path, name: str = "scw") -> str:
    return subprocess.run([root / "bin" / name], capture_output=True, text=True, check=True).stdout.strip()


def test_a_program_is_installed_replaced_and_removed(tmp_path: Path) -> None:
    one, two, other = program(tmp_path, "one"), program(tmp_path, "two"), program(tmp_path, "other", "jq")
    assert install(tmp_path, one, check=True)["changed"]
    assert not (tmp_path / "lib").exists()
    assert install(tmp_path, one, other)["installed"] == ["scw", "jq"]
    assert (says(tmp_path), says(tmp_path, "jq")) == ("one", "other")
    assert (tmp_path / "bin/scw").stat().st_mode & 0o777 == 0o755
    assert not install(tmp_path, one, other)["changed"]
    assert install(tmp_path, two, other)["installed"] == ["scw"]
    assert says(tmp_path) == "two"
    assert install(tmp_path, two)["removed"] == ["jq"]
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"scw"}
    assert len([*(tmp_path / "lib").iterdir()]) == 1
    assert install(tmp_path)["removed"] == ["scw"]
    assert not install(tmp_path)["changed"]


def test_another_content_is_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    install(tmp_path, program(tmp_path, "one"))
    forged = program(tmp_path, "two") | {"sha256": ZEROS}
    refused = install(tmp_path, forged, program(tmp_path, "other", "jq"))
    assert refused["failed"]
    found = program(tmp_path, "two")["sha256"]
    assert f"{forged['url']} has the SHA-256 {found}, and common_binaries says {ZEROS}" in refused["msg"]
    assert says(tmp_path) == "one"
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["scw"]
    assert len([*(tmp_path / "lib").iterdir()]) == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    refused = install(tmp_path, {"name": "scw", "url": (tmp_path / "none").as_uri(), "sha256": ZEROS})
    assert f"scw: {(tmp_path / 'none').as_uri()} cannot be had" in refused["msg"]


def test_a_program_that_somebody_else_installed_stays(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scw").write_text("by hand")
    refused = install(tmp_path, program(tmp_path, "one"))
    assert f"{tmp_path / 'bin/scw'} is there, and not of common_binaries: remove it" in refused["msg"]
    assert (tmp_path / "bin/scw").read_text() == "by hand"


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_program_comes_out_of_an_archive_of_the_controller(tmp_path: Path, kind: str) -> None:
    content, archive = b"#!/bin/sh\necho packed\n", tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("scw-2/bin/scw", content)
    else:
        with tarfile.open(archive, "w:gz") as packed:
            member = tarfile.TarInfo("./scw-2/bin/scw")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    pinned = {"name": "scw", "path": str(archive), "sha256": sha256(archive.read_bytes()), "member": "scw-2/bin/scw"}
    assert FILTERS.binary_faults([pinned]) == []
    assert install(tmp_path, pinned)["installed"] == ["scw"]
    assert says(tmp_path) == "packed"
    refused = install(tmp_path, pinned | {"member": "scw"})
    assert "member is scw, and the archive has no such file: it has" in refused["msg"]
    plain = program(tmp_path, "one") | {"member": "scw"}
    assert "is no tar or zip archive: leave member out" in install(tmp_path, plain)["msg"]
    assert says(tmp_path) == "packed"
