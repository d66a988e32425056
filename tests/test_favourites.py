"""Laws of favourites: each person has their own, they follow a voice, they outlive a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from webui.favourites import FILE, FavouriteVoices


def test_favourites_are_each_person_s_own_and_last(tmp_path: Path) -> None:
    first = FavouriteVoices(tmp_path)
    first.like("Anna", True, owner="me")
    first.like("v2/en_speaker_6", True, owner="you")
    first.like("Anna", True, owner="you")
    first.rename("Anna", "Berta", owner="me")
    again = FavouriteVoices(tmp_path)
    assert again.of("me") == {"Berta"} and again.of("you") == {"Anna", "v2/en_speaker_6"}
    assert again.of("nobody") == set()
    again.like("Berta", False, owner="me")
    assert first.of("me") == set()  # two studios on one folder


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"me": 5}', "\xff"])
def test_a_damaged_file_costs_the_stars_only(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content.encode("latin-1"))
    favourites = FavouriteVoices(tmp_path)
    assert favourites.of("me") == set()
    favourites.like("Anna", True, owner="me")
    assert FavouriteVoices(tmp_path).of("me") == {"Anna"}
