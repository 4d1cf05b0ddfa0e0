import pytest

from market_pipelines.market.currencies import in_units_of, whole_currency


@pytest.mark.parametrize(
    ("quoted", "wanted", "factor"),
    [
        ("GBp", "GBP", 0.01),
        ("GBX", "GBP", 0.01),
        ("GBP", "GBX", 100.0),
        ("GBp", "GBX", 1.0),
        ("GBP", "GBP", 1.0),
        ("ILA", "ILS", 0.01),
        ("ZAc", "ZAR", 0.01),
        ("USD", "USD", 1.0),
        ("USD", "GBP", 1.0),
        ("GBp", "USD", 1.0),
        ("usd", "USD", 1.0),
    ],
)
def test_a_price_is_turned_into_the_wanted_unit_of_the_same_money(quoted: str, wanted: str, factor: float) -> None:
    assert in_units_of(quoted, wanted) == factor


def test_pence_are_told_from_pounds_by_one_small_letter() -> None:
    assert whole_currency("GBp") == "GBP"
    assert whole_currency("ILA") == "ILS"
    assert whole_currency("pln") == "PLN"
