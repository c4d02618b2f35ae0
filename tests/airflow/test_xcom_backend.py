"""How large an XCom may be, and where a large one goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import xcom_backend
from airflow.providers.common.io.xcom import backend
from airflow.sdk.exceptions import AirflowFailException

COORDINATES = {"dag_id": "a_dag", "task_id": "a_task", "run_id": "a_run", "map_index": -1}
LARGE = ["ä" * 1024] * 1500


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Bound XComs to 2 MB, and have those of 1 MB go to a folder, as if it were the bucket."""
    caches = [backend._get_base_path, backend._get_compression, backend._get_threshold]
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setenv("LVAO_XCOM_MAX_MB", "2")
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH", f"file://{tmp_path}/xcom")
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD", str(2**20))
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("value", [None, 1, "text", {"a": [1, 2]}, "x" * (2**21 - 2)])
def test_a_value_up_to_the_bound_goes_to_the_database(value: object) -> None:
    stored = xcom_backend.XCom.serialize_value(value, key="return_value", **COORDINATES)
    assert xcom_backend.XCom.deserialize_value(SimpleNamespace(value=stored)) == value


def test_a_larger_one_fails_its_task_and_names_size_bound_and_ways_out() -> None:
    with pytest.raises(AirflowFailException) as error:
        xcom_backend.XCom.serialize_value(["x" * 1024] * 3072, key="return_value", **COORDINATES)
    said = str(error.value)
    assert "'return_value' has 3.0 MB" in said
    assert "airflow_xcom_max_mb allows 2" in said
    assert "airflow_logging_xcom_threshold_kb" in said


def test_a_large_one_goes_to_the_bucket_and_comes_back(folder: Path) -> None:
    stored = xcom_backend.BucketXCom.serialize_value(LARGE, key="return_value", **COORDINATES)
    assert stored.startswith(f"file://{folder}/xcom/a_dag/a_run/a_task/")
    (file,) = [path for path in folder.rglob("*") if path.is_file()]
    assert json.loads(file.read_text()) == LARGE
    assert xcom_backend.BucketXCom.deserialize_value(SimpleNamespace(value=stored)) == LARGE


def test_a_small_one_stays_in_the_database(folder: Path) -> None:
    stored = xcom_backend.BucketXCom.serialize_value({"a": 1}, key="return_value", **COORDINATES)
    assert xcom_backend.BucketXCom.deserialize_value(SimpleNamespace(value=stored)) == {"a": 1}
    assert list(folder.rglob("*")) == []
