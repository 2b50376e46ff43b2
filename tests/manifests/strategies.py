"""Hypothesis strategies for releases and for hostile JSON."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from manifests.checks import MAX_INTEGER
from manifests.model import BUCKETS, FACTS, VERSION_FACTS, Condition, Encoding, Release, Rule

sha256s = st.text("0123456789abcdef", min_size=64, max_size=64)
integers = st.integers(0, MAX_INTEGER)
# Every character that canonical JSON can hold: no controls, no halves of surrogate pairs.
texts = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters="\x7f"), min_size=1, max_size=12
)
model_names = texts.filter(lambda name: name not in (".", ".."))
versions = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
device_ids = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=40)

lists = st.lists(texts, max_size=3).map(tuple)
conditions = st.dictionaries(
    st.sampled_from(FACTS),
    st.builds(Condition, min=st.none() | versions, below=st.none() | versions, any_of=lists, none_of=lists),
)
rules = st.builds(Rule, salt=texts, buckets=st.integers(0, BUCKETS), conditions=conditions)
encodings = st.builds(
    Encoding,
    name=st.sampled_from(["identity", "zstd", "zstd-prefix", "later"]),
    blob=sha256s,
    length=integers,
    base=st.none() | sha256s,
)


def releases(models: st.SearchStrategy[str] = model_names) -> st.SearchStrategy[Release]:
    """Releases that keep every rule of the format."""
    return st.builds(
        Release,
        model=models,
        version=st.integers(1, MAX_INTEGER),
        artifact=sha256s,
        length=integers,
        position=integers,
        rule=rules,
        encodings=st.lists(encodings, max_size=4).map(tuple),
        interface=st.none() | texts,
    )


release_lists = st.lists(releases(), max_size=5, unique_by=lambda r: (r.model, r.version))

# What a person can state: every condition has a part, only versions have an order, and the order makes sense.
_numbers = st.lists(st.integers(0, 99), min_size=1, max_size=4)
stated_values = st.lists(texts, min_size=1, max_size=3)
stated_conditions = st.dictionaries(
    st.sampled_from(FACTS),
    st.fixed_dictionaries({"any_of": stated_values}, optional={"none_of": stated_values}),
) | st.dictionaries(st.sampled_from(VERSION_FACTS), st.fixed_dictionaries({"min": versions}))

# Anything that JSON can say, and some values that tempt a reader.
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "root", "targets", "17.4", "9" * 70, "\ud800", "a" * 5000, 0, 1, -1, 2**63]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
