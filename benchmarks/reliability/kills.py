"""A process is killed (SIGKILL) while it writes results; what is left must be whole.

Each round forks a writer that adds results to a history, tags them, puts them into the bin and
back, converts them, saves voices. It says through a pipe what is finished. At a random moment it
is killed. Then: no published file is torn; after opening again no row is without its files and
no file without its row; and nothing that was said to be finished is lost. The folder lives
through 25 rounds. A kill of the process only: what a power cut does to a disk is not tried.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability.folder import memory_folder, torn_files, unmatched
from benchmarks.reliability.result import Result
from tests.made import made
from tests.tiny import TINY_LAYOUT
from webui.exports import Encoder
from webui.history import History

N = 500
ROUNDS_A_FOLDER = 25
LATEST_KILL_S = 0.25


@dataclass(slots=True)
class Said:
    """What writers said of a folder: what is finished, and what they were about to change."""

    added: set[str] = field(default_factory=set)
    going: set[str] = field(default_factory=set)  # a deletion was begun
    tags: dict[str, str] = field(default_factory=dict)  # the last finished one
    tagging: dict[str, str] = field(default_factory=dict)  # the last begun one

    def hear(self, text: str) -> None:
        """Take in the whole lines that a writer sent before it was killed."""
        for line in text.split("\n")[:-1]:
            word, entry_id, *more = line.split(" ")
            match word:
                case "added":
                    self.added.add(entry_id)
                case "going":
                    self.going.add(entry_id)
                case "tagging":
                    self.tagging[entry_id] = more[0]
                case "tagged":
                    self.tags[entry_id] = more[0]


def write_for_ever(folder: Path, pipe: int, seed: int) -> None:
    """What the process that is killed does."""
    draw = random.Random(seed)

    def say(*words: str) -> None:
        os.write(pipe, (" ".join(words) + "\n").encode())

    history = History.open(folder)
    encoder = Encoder(history)
    ids = history.ids()
    for number in range(10**6):
        what = draw.choices(("add", "tag", "bin", "delete", "convert", "voice"), (8, 3, 2, 1, 1, 1))
        chosen = draw.choice(ids) if ids else None
        if chosen is None or what == ["add"]:
            entry = history.add(made(f"Round {seed}, {number}.", n_segments=draw.randint(1, 3)))
            say("added", entry.id)
            ids.append(entry.id)
        elif what == ["tag"]:
            tag = f"t{seed}-{number}"
            say("tagging", chosen, tag)
            history.set_tags(chosen, [tag])
            say("tagged", chosen, tag)
        elif what == ["bin"]:
            history.trash([chosen])
            history.restore([chosen])
        elif what == ["delete"]:
            ids.remove(chosen)
            say("going", chosen)
            history.delete(chosen)
        elif what == ["convert"]:
            encoder.path(chosen, draw.choice(("mp3", "wav", "opus")))
        else:
            made(seed=number).voice.save(folder / "voice.npz")


def run_round(folder: Path, seed: int, said: Said) -> list[str]:
    """Start a writer, kill it, look at what it left; returns what is broken."""
    read_end, write_end = os.pipe()
    writer = os.fork()
    if writer == 0:
        # a child of fork must not run its parent's exit handlers
        with contextlib.suppress(BaseException):
            os.close(read_end)
            write_for_ever(folder, write_end, seed)
        os._exit(1)
    os.close(write_end)
    draw = random.Random(seed)
    with os.fdopen(read_end, encoding="ascii") as pipe:
        # one in five is killed while it opens the store
        first = pipe.readline() if draw.random() < 0.8 else ""
        time.sleep(draw.uniform(0.0, LATEST_KILL_S))
        os.kill(writer, signal.SIGKILL)
        _pid, status = os.waitpid(writer, 0)
        said.hear(first + pipe.read())
    broken = [] if os.WIFSIGNALED(status) else ["the writer failed before it was killed"]
    broken += torn_files(folder, TINY_LAYOUT)
    history = History.open(folder)
    try:
        return broken + unmatched(history) + _lost(history, said)
    finally:
        history.close()


def _lost(history: History, said: Said) -> list[str]:
    entries = {entry.id: entry for entry in [*history.search(limit=10**6), *history.trashed()]}
    lost = [f"{entry_id} was finished and is lost" for entry_id in said.added - entries.keys()
            if entry_id not in said.going]  # fmt: skip
    for entry_id, tag in said.tags.items():
        entry = entries.get(entry_id)
        if entry is not None and entry.tags not in ((tag,), (said.tagging[entry_id],)):
            lost.append(f"{entry_id} lost its tag {tag}, it has {entry.tags}")
    return lost


def measure(n: int) -> Result:
    """Kill `n` writers."""
    broken: list[str] = []
    n_added = n_deleted = n_tagged = 0
    for first in range(0, n, ROUNDS_A_FOLDER):
        said = Said()
        # in memory, so that more is written before a kill: the disk has no part in it
        memory = memory_folder()
        with tempfile.TemporaryDirectory(prefix="bark-studio-kills-", dir=memory) as name:
            for seed in range(first, min(n, first + ROUNDS_A_FOLDER)):
                broken += run_round(Path(name), seed, said)
        n_added, n_deleted = n_added + len(said.added), n_deleted + len(said.going)
        n_tagged += len(said.tags)
    figures = {"kills": n, "added": n_added, "deletions": n_deleted, "tagged": n_tagged}
    return Result(figures, tuple(broken))
