"""Property tests draw the same examples every time, and a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")
