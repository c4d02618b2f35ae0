"""Runs the DAGs, and the functions that they are made of."""

import pytest
import repair_shops as example
from conftest import DAGS
from test_dags import load

pytestmark = pytest.mark.usefixtures("database")


def test_the_example_runs_to_success() -> None:
    run = load(DAGS).dags["repair_shops"].test()
    assert run.state == "success"
    assert run.get_task_instance("publish").xcom_pull(task_ids="publish") == {"bicycle": 2, "scooter": 1, "toaster": 1}


def test_the_canary_logs_its_token(caplog: pytest.LogCaptureFixture) -> None:
    run = load(DAGS).dags["log_canary"].test(run_conf={"token": "sesame"})
    assert run.state == "success"
    assert "log canary: sesame" in caplog.messages


@pytest.mark.parametrize("postcode", ["", "3500", "35OOO"])
def test_a_shop_without_a_postcode_is_left_out(postcode: str) -> None:
    assert example.normalise({"name": "La Fabrique", "postcode": postcode, "repairs": []}) is None


def test_a_shop_is_tidied() -> None:
    typed = {"name": " La  Fabrique ", "postcode": "44 000", "repairs": ["Toaster", "toaster "]}
    assert example.normalise(typed) == {"name": "La Fabrique", "postcode": "44000", "repairs": ["toaster"]}
