"""Laws of the messages between the page and a worker: only what is meant can be named."""

from __future__ import annotations

import io
import operator
import pickle
from typing import Any

import pytest

from bark_core import wire
from bark_core.events import Stage


class ByGetattr:
    """Pickles as an attribute of something, as Python 3.11.2 does with members of enumerations."""

    def __init__(self, of: Any, name: str) -> None:
        self.of, self.name = of, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.of, self.name)


def read(value: Any) -> Any:
    return wire._Unpickler(io.BytesIO(pickle.dumps(value))).load()


def test_members_of_enumerations_are_read_however_python_wrote_them() -> None:
    assert read(Stage.FINE) is Stage.FINE
    assert read(ByGetattr(Stage, "FINE")) is Stage.FINE


@pytest.mark.parametrize(
    "value",
    [
        ByGetattr(Stage, "mro"),
        ByGetattr(Stage, "__class__"),
        ByGetattr(dict, "fromkeys"),
        ByGetattr("text", "format"),
        operator.itemgetter(1),
    ],
)
def test_nothing_else_is_got_by_name(value: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match="a message may"):
        read(value)
