"""The folders that a site gives to tasks: which may be theirs, and what the scheduler's unit says of them."""

import importlib.util
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles/airflow"
SPEC = importlib.util.spec_from_file_location("places", ROLE / "filter_plugins/places.py")
FILTERS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FILTERS)
TAKEN = {"airflow_directory": "/opt/airflow", "airflow_home": "/var/lib/airflow"}
OWN = "it must be the path of a folder of its own, such as /srv/lvao, and no folder of the system"


def faults(*paths: str, temporary: str = FILTERS.PRIVATE[0], mode: str = "0750") -> list[str]:
    directories = [{"path": path, "mode": mode} for path in paths]
    return FILTERS.work_directory_faults(directories, temporary, TAKEN)


@pytest.mark.parametrize(
    "path", ["/srv/lvao", "/data", "/mnt/volume/exports", "/var/lib/lvao", "/var/cache/models", "/opt/lvao"]
)
def test_a_folder_of_its_own_is_taken(path: str) -> None:
    assert faults(path) == []
    assert faults(temporary=path) == []


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "srv/lvao", "/srv/lvao/", "/srv//lvao", "/srv/../etc", "/srv/two words", "/srv/$HOME", "/srv/a\n/b"),
        *("/etc", "/etc/airflow", "/usr/local/lib", "/home/airflow", "/root/x", "/dev/x", "/run/x"),
        *("/srv", "/mnt", "/opt", "/var", "/var/lib", "/var/log/x", "/var/backups/lvao-airflow"),
        *(f"{private}/x" for private in FILTERS.PRIVATE),
        *("/var/lib/postgresql", "/var/lib/dpkg/info", "/var/lib/private", "/var/lib/lvao-airflow-webserver"),
    ],
)
def test_a_folder_of_the_system_is_refused(path: str) -> None:
    assert faults(path)[0] == f"airflow_work_directories holds '{path}': {OWN}."
    assert faults(temporary=path)[0] == f"airflow_temporary_directory holds '{path}': {OWN}."


@pytest.mark.parametrize("temporary", FILTERS.PRIVATE)
def test_the_temporary_folder_of_a_unit_is_made_by_systemd(temporary: str) -> None:
    assert faults("/srv/lvao", temporary=temporary) == []
    assert FILTERS.work_directories([{"path": "/srv/lvao"}], temporary) == [{"path": "/srv/lvao", "mode": "0750"}]


def test_another_temporary_folder_is_the_tasks_alone() -> None:
    made = FILTERS.work_directories([{"path": "/srv/lvao", "mode": "0755"}], "/data/tmp")
    assert made == [{"path": "/srv/lvao", "mode": "0755"}, {"path": "/data/tmp", "mode": "0700"}]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["/srv/a", "/srv/a"], "airflow_work_directories holds /srv/a, and airflow_work_directories /srv/a"),
        (["/srv/a", "/srv/a/b"], "airflow_work_directories holds /srv/a/b, and airflow_work_directories /srv/a"),
        (["/var/lib/airflow/state/a"], "holds /var/lib/airflow/state/a, and airflow_home /var/lib/airflow"),
        (["/opt/airflow/x"], "holds /opt/airflow/x, and airflow_directory /opt/airflow"),
    ],
)
def test_no_folder_is_made_where_tasks_may_leave_a_link(paths: list[str], said: str) -> None:
    (fault,) = faults(*paths)
    assert said in fault
    assert fault.endswith("neither may hold the other.")


def test_the_temporary_folder_is_no_work_directory() -> None:
    (fault,) = faults("/srv/a", temporary="/srv/a/tmp")
    assert "airflow_temporary_directory holds /srv/a/tmp, and airflow_work_directories /srv/a" in fault


@pytest.mark.parametrize("mode", ["0777", "0000", "488", "1777", "rwx", "0752"])
def test_a_mode_by_which_others_write_is_refused(mode: str) -> None:
    (fault,) = faults("/srv/a", mode=mode)
    assert f"airflow_work_directories holds /srv/a with the mode {mode}: it must be octal digits in quotes" in fault


@pytest.mark.parametrize("mode", ["0750", "0755", "0700", "770"])
def test_a_mode_by_which_others_only_read_is_taken(mode: str) -> None:
    assert faults("/srv/a", mode=mode) == []
