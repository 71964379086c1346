"""The shared library: codecs and state machines that do no IO, and the drivers that do it for them (``io/``)."""
