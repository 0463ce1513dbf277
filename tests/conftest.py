"""Settings of Hypothesis for all tests."""

from hypothesis import HealthCheck, settings

import pipeline.settings  # noqa: F401 - before numpy loads: it is kept to one thread, as in the processes

# Nothing may depend on how busy the machine is; a test that fails prints the seed that plays it again.
settings.register_profile("herald", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("herald")
