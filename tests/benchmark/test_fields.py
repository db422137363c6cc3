"""Fields of a run as texts."""

import pytest

from benchmark.errors import UserError
from benchmark.fields import assignment, field_value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "3", 3),
        ("lr", "1e-3", 1e-3),
        ("width", "1", 1.0),
        ("measure", "loss", "loss"),
        ("prune_epoch", "trained", "trained"),
        ("prune_epoch", "100000", 100_000),
        ("rounds", "161", 161),
        ("rules", "2", 2),
        ("cell", "0123456789ab", "0123456789ab"),
    ],
)
def test_a_text_becomes_the_value_of_the_field(name, text, value):
    found = field_value(name, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("seed", "one", "seed must be a whole number, got 'one'"),
        ("lr", "nan", "lr must be finite, got nan"),
        ("rules", "x", "rules must be a whole number, got 'x'"),
        ("protocol", "papr", "protocol must be one of exact, paper, got 'papr'"),
    ],
)
def test_a_value_that_the_field_cannot_have(name, text, said):
    with pytest.raises(UserError) as caught:
        field_value(name, text)
    assert str(caught.value) == said


def test_field_and_value_are_told_apart():
    assert assignment("dataset=folder:a=b", "filter") == ("dataset", "folder:a=b")
    with pytest.raises(UserError, match=r"^filter must be FIELD=VALUE with a field among measure,"):
        assignment("seed", "filter")
    with pytest.raises(UserError, match=r"^fields must be FIELD=X=Y with a field among seed, got"):
        assignment("lr=1=2", "fields", "FIELD=X=Y", ["seed"])
