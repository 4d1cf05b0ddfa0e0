"""How an attempt to fetch something can end. A provider's failure is one of these values, never an exception."""

from enum import StrEnum


class Outcome(StrEnum):
    OK = "ok"
    EMPTY_EXPECTED = "empty_expected"
    EMPTY_UNEXPECTED = "empty_unexpected"
    UNKNOWN_SYMBOL = "unknown_symbol"
    THROTTLED = "throttled"
    QUOTA_EXHAUSTED = "quota_exhausted"
    NOT_ENTITLED = "not_entitled"
    CHALLENGE = "challenge"
    MALFORMED = "malformed"
    UNAVAILABLE = "unavailable"
    RETIRED = "retired"

    @property
    def delivered(self) -> bool:
        """The question was answered: with rows, or with the fact that there are none."""
        return self in (Outcome.OK, Outcome.EMPTY_EXPECTED)

    @property
    def transient(self) -> bool:
        """Asking again within this run can help."""
        return self in (Outcome.THROTTLED, Outcome.UNAVAILABLE)

    @property
    def provider_wide(self) -> bool:
        """Nothing that is asked of this provider in this run will fare better."""
        return self in (
            Outcome.QUOTA_EXHAUSTED,
            Outcome.CHALLENGE,
            Outcome.RETIRED,
        )
