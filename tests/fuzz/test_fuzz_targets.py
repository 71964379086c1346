"""A short run of every fuzz target: its examples, these with bytes changed, and noise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS


@st.composite
def mutated(draw: st.DrawFn, examples: tuple[bytes, ...]) -> bytes:
    """An example, or several in a row, with a few bytes replaced, taken out or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(examples), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_examples(name: str) -> None:
    for example in TARGETS[name].examples:
        TARGETS[name].run(example)


@pytest.mark.parametrize("name", TARGETS)
def test_anything(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=40 if name == "server" else 200, deadline=None)
    @given(st.one_of(mutated(target.examples), st.binary(max_size=200)))
    def feed(data: bytes) -> None:
        target.run(data)

    feed()
