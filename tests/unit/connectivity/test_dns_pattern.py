"""Patterns of DNS resources."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.dns_pattern import is_pattern, matches, priority


@pytest.mark.parametrize(
    ("pattern", "name", "is_match"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("Example.COM", "example.com", True),
        ("example.com", "www.example.com", False),
        ("*.example.com", "example.com", True),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "xexample.com", False),
        ("**.example.com", "example.com", True),
        ("**.example.com", "a.b.c.example.com", True),
        ("**.example.com", "xexample.com", False),
        ("?.example.com", "a.example.com", True),
        ("?.example.com", "ab.example.com", False),
        ("?.example.com", "example.com", False),
        ("web?.example.com", "web1.example.com", True),
        ("web?.example.com", "web.example.com", False),
        ("*ample.com", "example.com", True),
        ("*ample.com", "ample.com", True),
        ("*ample.com", "a.example.com", False),
        ("a*b*c.example.com", "axxbxbxc.example.com", True),
        ("a*b*c.example.com", "axxbxbxd.example.com", False),
        ("app.**.web.**.example.com", "app.web.example.com", True),
        ("app.**.web.**.example.com", "app.a.b.web.c.example.com", True),
        ("app.**.web.**.example.com", "app.a.b.c.example.com", False),
        ("www.*.example.com", "www.example.com", False),
        ("www.*.example.com", "www.a.example.com", True),
        ("**", "anything.at.all", True),
        ("*", "host", True),
        ("*", "host.example", False),
        ("a**.example.com", "abc.example.com", True),
        ("a**.example.com", "a.b.example.com", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("", "example.com", False),
        ("example.com", "", False),
        ("example..com", "example.com", False),
        ("**", "", False),
    ],
)
def test_matching(pattern: str, name: str, is_match: bool) -> None:
    assert matches(pattern, name) is is_match


def test_priority_is_literal_first_then_the_narrower_wildcard_then_the_shorter() -> None:
    ordered = [
        "example.com",
        "bar.example.com",
        "*.bar.example.com",
        "foo.example.com",
        "?.example.com",
        "*.example.com",
        "**.example.com",
        "*ample.com",
        "*.com",
    ]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    found = sorted(shuffled, key=priority)
    # Literals that differ never match the same name: their order among each other is of no interest.
    foo = found.index("foo.example.com")
    assert foo < found.index("?.example.com")
    assert [pattern for pattern in found if pattern != "foo.example.com"] == [
        pattern for pattern in ordered if pattern != "foo.example.com"
    ]


def test_an_empty_label_makes_no_pattern() -> None:
    assert is_pattern("*.example.com")
    assert not is_pattern("a..b")
    assert not is_pattern("")


texts = st.text(st.sampled_from("ab?*."), max_size=24) | st.text(max_size=24)
plain = st.lists(st.text(st.sampled_from("ab-1"), min_size=1, max_size=5), min_size=1, max_size=5).map(".".join)


@given(texts, texts)
def test_any_pattern_and_any_name_give_an_answer(pattern: str, name: str) -> None:
    assert matches(pattern, name) in {True, False}
    assert priority(pattern) == priority(pattern)


@given(plain)
def test_a_name_matches_itself_and_every_wildcard_in_its_place(name: str) -> None:
    head, _, parent = name.partition(".")
    assert matches(name, name.upper())
    assert matches("?" * len(head) + name[len(head) :], name)
    assert matches("*" + name[len(head) :], name)
    assert matches(f"**.{name}", name)
    if parent:
        assert matches(f"*.{parent}", name)
        assert matches(f"**.{parent}", name)
        assert matches(f"*.{parent}", parent)
        assert priority(name) < priority(f"*.{parent}") < priority(f"**.{parent}")


def test_many_stars_cost_no_more_than_the_product_of_the_lengths() -> None:
    pattern = ".".join(["**", "*a*a*a*a*a*a*a*b"] * 60)
    assert not matches(pattern, ".".join(["a" * 63] * 120))
