"""The team's own test of its own code."""

import pytest
from ingest.ingest_shops import read


@pytest.mark.smoke
def test_a_shop_has_a_name_in_addresses() -> None:
    assert read().slug() == "la-fabrique-lyon"
