"""Currencies that exchanges quote in hundredths: pence, agorot, South African cents.

One rule for every provider: prices are delivered in the unit of the instrument's own currency. What a provider's
symbol is quoted in is said by the provider; exchange rates are nobody's business here.
"""

from __future__ import annotations

from decimal import Decimal

_HUNDREDTHS = {"GBp": "GBP", "GBX": "GBP", "GBx": "GBP", "ILA": "ILS", "ILa": "ILS", "ZAc": "ZAR", "ZAC": "ZAR"}
"""Case matters: GBp is a penny, GBP a pound."""


def whole_currency(currency: str) -> str:
    """GBP for pence; any other code in capitals."""
    return _HUNDREDTHS.get(currency, currency.upper())


def in_units_of(quoted: str, wanted: str) -> float:
    """What a price in `quoted` is multiplied by to be one in `wanted`: 0.01 from pence to pounds.

    1 where the two are not units of the same money: a listing in dollars in London stays in dollars.
    """
    if whole_currency(quoted) != whole_currency(wanted):
        return 1.0
    return float(_size(quoted) / _size(wanted))


def _size(currency: str) -> Decimal:
    return Decimal("0.01") if currency in _HUNDREDTHS else Decimal(1)
