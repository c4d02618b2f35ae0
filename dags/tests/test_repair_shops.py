"""Tests to copy: the functions alone, which is fast, and the whole DAG once."""

import pytest
from airflow.sdk import DAG
from repair_shops import count_repairs, normalise


def test_a_shop_is_tidied() -> None:
    typed = {"name": " La  Fabrique ", "postcode": "44 000", "repairs": ["Toaster", "toaster ", " "]}
    assert normalise(typed) == {"name": "La Fabrique", "postcode": "44000", "repairs": ["toaster"]}


@pytest.mark.parametrize("postcode", ["", "3500", "350000", "35OOO", "\uff135000"])
def test_a_shop_without_a_postcode_is_left_out(postcode: str) -> None:
    assert normalise({"name": "La Fabrique", "postcode": postcode, "repairs": []}) is None


def test_a_shop_without_a_name_is_left_out() -> None:
    assert normalise({"name": " ", "postcode": "44000", "repairs": []}) is None


def test_repairs_are_counted() -> None:
    shops = [{"name": name, "postcode": "44000", "repairs": ["toaster", name]} for name in ("phone", "bicycle")]
    assert list(count_repairs(shops).items()) == [("bicycle", 1), ("phone", 1), ("toaster", 2)]
    assert count_repairs([]) == {}


@pytest.mark.parametrize(
    ("area", "summary"), [("", {"bicycle": 2, "scooter": 1, "toaster": 1}), ("35", {"bicycle": 1, "scooter": 1})]
)
def test_the_dag_publishes_a_summary(dags: dict[str, DAG], area: str, summary: dict[str, int]) -> None:
    run = dags["repair_shops"].test(run_conf={"area": area})
    assert run.state == "success"
    assert run.get_task_instance("publish").xcom_pull(task_ids="publish") == summary


def test_the_dag_publishes_nothing_rather_than_an_empty_summary(dags: dict[str, DAG]) -> None:
    run = dags["repair_shops"].test(run_conf={"area": "99"})
    assert run.state == "failed"
    assert run.get_task_instance("publish").state == "upstream_failed"
