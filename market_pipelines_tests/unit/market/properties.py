"""How property tests run here: enough examples to find things, and no clock that a busy machine can trip."""

from hypothesis import HealthCheck, settings

unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
