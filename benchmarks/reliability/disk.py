"""Every write fails once (disk full, I/O error): no corrupt record, a clear message.

Each thing that the studio keeps is written again and again into a fresh folder, and each time
another one of its system calls (open, write, fsync, rename, mkdir, ..., SQLite's own among them)
fails: once, or from then on as on a disk that stays full. `failing_disk.c` does it beneath
Python. What must be true each time:

    it ends in a StorageError that says what happened and what to do, or it did all it should
    after opening again everything is whole: the old state or the new one
    nothing temporary stays
    as soon as the disk works again, the same thing works in the same process

Linux with a C compiler only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bark_core import BarkError, StorageError, VoiceLibrary, read_tags, write_audio
from bark_core.checkpoint import convert
from bark_core.configurations import STAGES
from bark_core.formats import open_checkpoint
from bark_core.project import Project
from bark_core.project_folder import ProjectFolder
from bark_core.project_plan import Planner
from bark_core.script_text import parse_plain
from benchmarks.reliability.folder import memory_folder, torn_files, unmatched
from benchmarks.reliability.result import Result
from tests import tiny
from tests.made import made
from tests.tiny import TINY_LAYOUT
from webui.exports import Encoder
from webui.favourites import FavouriteVoices
from webui.history import History
from webui.history_cli import main as history_command
from webui.preferences import Choice, Preferences, read_preferences, write_preferences

N = 10_000  # failing calls at most; there are fewer
SOURCE = Path(__file__).with_name("failing_disk.c")
MIX = made("mix")
ERRORS = {errno.ENOSPC: "disk full", errno.EIO: "I/O error"}


@dataclass(frozen=True, slots=True)
class Trial:
    """Something that is written, ready to be done.

    Attributes:
        act: does it; may be called again after it failed.
        check: what is wrong afterwards; its argument says whether `act` returned.
    """

    act: Callable[[], object]
    check: Callable[[bool], list[str]]


# --- what is written


def _history_case(
    act: Callable[[History, str], object], wanted: Callable[[History, str], bool]
) -> Callable[[Path], Trial]:
    """Something done to a history with one entry; `wanted` says whether it is done."""

    def begin(folder: Path) -> Trial:
        history = History.open(folder)
        kept = history.add(made("kept")).id

        def check(done: bool) -> list[str]:
            again = History.open(folder, mend=False)
            problems = torn_files(folder, TINY_LAYOUT)
            if done and not wanted(again, kept):
                problems.append("it returned, but it isn't done")
            again.close()
            history.close()
            mended = History.open(folder)
            problems += unmatched(mended)
            if done and not wanted(mended, kept):
                problems.append("it was done, and is undone after the next start")
            mended.close()
            return problems

        return Trial(lambda: act(history, kept), check)

    return begin


def _opening(folder: Path) -> Trial:
    """A history with something to mend: a temporary, an entry without a row, no sidecar."""
    history = History.open(folder)
    lost, kept = history.add(made("lost")).id, history.add(made("kept")).id
    with history._write() as connection:
        connection.execute("DELETE FROM entries WHERE id = ?", (lost,))
    history.set_favourite(kept, True)
    history.close()
    (folder / "sounds" / ".x.partial.flac").write_bytes(b"half")

    def check(done: bool) -> list[str]:
        again = History.open(folder)
        found = {entry.id for entry in again.search()}
        problems = [*torn_files(folder, TINY_LAYOUT), *unmatched(again)]
        again.close()
        return problems if found == {lost, kept} else [*problems, f"entries are lost: {found}"]

    return Trial(lambda: History.open(folder).close(), check)


def _new_history(folder: Path) -> Trial:
    def check(done: bool) -> list[str]:
        again = History.open(folder)
        again.add(made())
        problems = unmatched(again)
        again.close()
        return problems

    return Trial(lambda: History.open(folder).close(), check)


def _conversion(folder: Path) -> Trial:
    history = History.open(folder)
    kept = history.add(made()).id
    encoder = Encoder(history)

    def check(done: bool) -> list[str]:
        history.close()
        return torn_files(folder, TINY_LAYOUT)

    return Trial(lambda: encoder.path(kept, "mp3"), check)


def _export(folder: Path) -> Trial:
    history = History.open(folder)
    history.add(made())
    history.close()
    target = folder / "out.zip"

    def act() -> None:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            code = history_command(
                ["history", "export", "-o", str(target), "--data", str(folder), "--quiet"]
            )
        if code == 5:
            raise StorageError("the command said what is wrong with the disk")
        if code:
            raise RuntimeError(f"exit code {code}")

    def check(done: bool) -> list[str]:
        left = [path.name for path in folder.glob(".out*")]
        return ["no zip"] if done and not target.is_file() else left

    return Trial(act, check)


def _voice(folder: Path) -> Trial:
    library = _library(folder)
    library.save(made(seed=1).voice, "old")
    before = library["old"].sha256
    voice = made(seed=2).voice

    def check(done: bool) -> list[str]:
        found = _library(folder)["old"].sha256
        problems = [path.name for path in folder.rglob("*.partial*")]
        if found not in (before, voice.sha256) or (done and found != voice.sha256):
            problems.append("the voice is neither the old nor the new one")
        return problems

    return Trial(lambda: library.save(voice, "old", replace_own=True), check)


def _voice_deleted(folder: Path) -> Trial:
    library = _library(folder)
    library.save(made().voice, "old")

    def act() -> None:
        if "old" in library:  # not yet, if it failed half-way
            library.delete("old")
        library.restore("old")

    def check(done: bool) -> list[str]:
        again = _library(folder)
        there = "old" in again or "old" in again.deleted()
        return [] if there else ["the voice is neither here nor among the deleted ones"]

    return Trial(act, check)


def _library(folder: Path) -> VoiceLibrary:
    return VoiceLibrary.default(folder / "voices", layouts=lambda: [TINY_LAYOUT])


def _favourites(folder: Path) -> Trial:
    FavouriteVoices(folder).like("rosa", True, owner="me")
    favourites = FavouriteVoices(folder)

    def check(done: bool) -> list[str]:
        liked = FavouriteVoices(folder).of("me")
        wanted = {"rosa", "tim"} if done else liked | {"rosa"}
        return [] if liked == wanted else [f"favourites are {liked}"]

    return Trial(lambda: favourites.like("tim", True, owner="me"), check)


def _preferences(folder: Path) -> Trial:
    old, new = Preferences(model="pup"), Preferences("small", {"pup": Choice("float16")})
    write_preferences(folder, old)

    def check(done: bool) -> list[str]:
        found = read_preferences(folder)
        return [] if found == new or (not done and found == old) else [f"settings are {found}"]

    return Trial(lambda: write_preferences(folder, new), check)


def _project(folder: Path) -> Trial:
    project = Project.make(parse_plain("Ann: Hello!\nBob: No."), Planner.of(tiny.tiny_cascade()))
    kept = ProjectFolder.create(folder / "project", project)

    def act() -> None:
        order = project.order(project.to_make[0], lambda _name: MIX.voice, lambda _take: MIX.voice)
        kept.add(order, made(order.request.text))

    def check(done: bool) -> list[str]:
        again = ProjectFolder.open(kept.folder)
        takes = again.project.segments[0].takes
        problems = torn_files(kept.folder, TINY_LAYOUT)
        if done and not takes:
            problems.append("the take is lost")
        return problems + [f"{path.name} stayed" for path in kept.folder.rglob("*.partial*")]

    return Trial(act, check)


def _sound(folder: Path) -> Trial:
    path = folder / "sound.flac"
    write_audio(path, made("old").audio, {"text": "old"})

    def check(done: bool) -> list[str]:
        text = read_tags(path)["text"]
        left = _others(folder, path)
        return left if text == "new" or (not done and text == "old") else [f"the text is {text}"]

    return Trial(lambda: write_audio(path, made("new").audio, {"text": "new"}), check)


def _others(folder: Path, path: Path) -> list[str]:
    return [f"{other.name} stayed" for other in folder.iterdir() if other != path]


def _model(folder: Path) -> Trial:
    source = Path(tempfile.gettempdir()) / f"{folder.parent.name}-model"
    if not source.exists():
        tiny.save_tiny_model(source)
    target = folder / "converted"

    def act() -> None:
        if not target.exists():
            convert(source, target, "float16")

    def check(done: bool) -> list[str]:
        if target.exists():
            opened = open_checkpoint(target)
            for stage in STAGES:
                opened.read_stage(stage)
        left = _others(folder, target)
        return left if target.exists() or not done else ["no model"]

    return Trial(act, check)


CASES: dict[str, Callable[[Path], Trial]] = {
    "a result": _history_case(
        lambda history, _: history.add(made("new", n_segments=2)),
        lambda history, _: history.count() >= 2,
    ),
    "a script's mix": _history_case(
        lambda history, _: history.add_sound(
            made().audio, {"text": "mix"}, segments=[made().voice]
        ),
        lambda history, _: history.count(kind="script") >= 1,
    ),
    "tags": _history_case(
        lambda history, kept: history.set_tags(kept, ["new"]),
        lambda history, kept: getattr(history.get(kept), "tags", None) == ("new",),
    ),
    "into the bin": _history_case(
        lambda history, kept: history.trash([kept]),
        lambda history, kept: [entry.id for entry in history.trashed()] == [kept],
    ),
    "deletion": _history_case(
        lambda history, kept: history.delete(kept),
        lambda history, kept: history.get(kept) is None,
    ),
    "a rescan": _history_case(
        lambda history, _: history.rescan(), lambda history, kept: history.get(kept) is not None
    ),
    "a start": _opening,
    "a first start": _new_history,
    "a conversion": _conversion,
    "an export": _export,
    "a voice": _voice,
    "a deleted voice": _voice_deleted,
    "favourites": _favourites,
    "settings": _preferences,
    "a take of a script": _project,
    "a sound file": _sound,
    "a model": _model,
}


# --- failing


def measure(n: int) -> Result:
    """Let up to `n` calls fail, evenly over all cases."""
    with tempfile.TemporaryDirectory(prefix="bark-studio-disk-", dir=memory_folder()) as name:
        library = Path(name) / "failing_disk.so"
        build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(build, check=True, capture_output=True)
        done = subprocess.run(
            [sys.executable, "-m", __name__, name, str(n)],
            env={**os.environ, "LD_PRELOAD": str(library), "TMPDIR": name, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        return Result({}, (f"it couldn't run: {done.stderr[-2000:]}",))
    told = json.loads(done.stdout.splitlines()[-1])
    return Result(told["figures"], tuple(told["broken"]))


def _inside(root: Path, n: int) -> Result:
    """What runs above the failing disk."""
    counts = {name: _count(root, name) for name in CASES}
    ways = [(code, for_good) for code in ERRORS for for_good in (False, True)]
    every = [
        (name, at, *way) for name, count in counts.items() for at in range(count) for way in ways
    ]
    # a step that shares no factor with the number of ways tries all of them
    step = max(1, len(every) // n)
    step += step > 1 and step % 2 == 0
    broken: list[str] = []
    outcomes: Counter[str] = Counter()
    for name, at, code, for_good in every[::step]:
        outcome, problems = _fail(root, name, at, code, for_good)
        outcomes[outcome] += 1
        how = "from then on" if for_good else "once"
        broken += [f"{name}: call {at} failed {how} ({ERRORS[code]}): {p}" for p in problems]
    figures = {
        "cases": len(CASES),
        "calls": sum(counts.values()),
        "failures": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
    }
    return Result(figures, tuple(broken))


def _count(root: Path, name: str) -> int:
    """How many calls something takes."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        trial = CASES[name](Path(folder))
        with _failing(Path(folder), 2**40, 0, False) as counted:
            trial.act()
        problems = trial.check(True)
        assert not problems, f"{name} is broken without any failure: {problems}"
        return counted[0]


def _fail(root: Path, name: str, at: int, code: int, for_good: bool) -> tuple[str, list[str]]:
    """Let one call fail; how it ended, and what is wrong afterwards."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        trial = CASES[name](Path(folder))
        outcome, problems = "done all the same", []
        try:
            with _failing(Path(folder), at, code, for_good):
                trial.act()
        except StorageError as error:
            outcome = "StorageError"
            if len(str(error).split()) < 6:
                problems.append(f"an unclear message: {error}")
        except BarkError as error:
            outcome = type(error).__name__
            problems.append(f"another error: {error!r}")
        except Exception as error:
            outcome = "!"
            problems.append(f"{error!r} instead of a StorageError")
        try:
            if outcome != "done all the same":
                trial.act()  # the disk works again
            problems += trial.check(True)
        except Exception as error:
            problems.append(f"afterwards: {error!r}")
    with tempfile.TemporaryDirectory(dir=root) as folder:
        trial = CASES[name](Path(folder))
        with contextlib.suppress(Exception), _failing(Path(folder), at, code, for_good):
            trial.act()
        try:
            problems += trial.check(False)  # what is left when nobody tries again
        except Exception as error:
            problems.append(f"left behind: {error!r}")
    return outcome, problems


@contextlib.contextmanager
def _failing(folder: Path, at: int, code: int, for_good: bool) -> Iterator[list[int]]:
    """Let the disk fail inside the block; yields what will hold how many calls it saw."""
    library = ctypes.CDLL(None)
    arm, seen = library.failing_disk_arm, library.failing_disk_seen
    arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    seen.restype = ctypes.c_long
    arm(os.fsencode(folder), at, code, for_good)
    counted: list[int] = []
    try:
        yield counted
    finally:
        counted.append(int(seen()))
        arm(b"", -1, 0, 0)


if __name__ == "__main__":
    result = _inside(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"figures": result.figures, "broken": result.broken}))
