"""Voice files that were mutated or are hostile: the typed error, little time, little memory.

Each file is made of a good one: bytes flipped, cut, moved; fields of the zip and of the arrays'
headers changed; arrays replaced inside a sound zip (so that the checksums fit) by ones of other
shapes, types and values; pickles, bombs, sizes that can't be. A file that still reads is a voice
of the layout. Time is the processor's, memory the largest that Python and numpy hold beyond the
file itself. The worst of both must stay below MAX_MS and MAX_MB.
"""

from __future__ import annotations

import io
import pickle
import random
import statistics
import struct
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable

import numpy as np

from bark_core import VoiceError, load_voice
from bark_core.config import BARK_LAYOUT
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.voices import KEYS, Voice
from benchmarks.reliability.result import Result

N = 100_000
MAX_MS, MAX_MB = 50.0, 5.0

Mutation = Callable[[bytes, random.Random], bytes]


def good_voice(seconds: float = 8.0) -> bytes:
    """A voice file as they are published: some 20 KB."""
    draw = np.random.default_rng(0)
    n_frames = round(seconds * BARK_LAYOUT.frame_rate_hz)
    fine = FineCodes(draw.integers(0, 1024, (8, n_frames)), BARK_LAYOUT)
    semantic = SemanticTokens(
        draw.integers(0, 10_000, round(n_frames / BARK_LAYOUT.frames_per_semantic)), BARK_LAYOUT
    )
    return Voice(semantic, fine.coarse, fine, name="good", language="en").to_bytes()


# --- bytes


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def spliced(data: bytes, draw: random.Random) -> bytes:
    a, b = sorted(draw.randrange(len(data)) for _ in range(2))
    piece = data[a:b][: draw.choice((4, 100, 10_000))]
    at = draw.randrange(len(data))
    return data[:at] + piece * draw.choice((1, 2, 20)) + data[at + draw.choice((0, len(piece))) :]


def in_the_directory(data: bytes, draw: random.Random) -> bytes:
    """Damage where the zip says what it holds and how large that is."""
    changed = bytearray(data)
    start = data.find(b"PK\x01\x02")
    for _ in range(draw.choice((1, 2, 4))):
        at = draw.randrange(start, len(changed) - 4)
        size = draw.choice((1, 2, 4))
        value = draw.choice((0, 1, 2**16 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)))
        changed[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(changed)


# --- a sound zip of other arrays


def repacked(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The file with other members, packed anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def other_header(data: bytes, draw: random.Random) -> bytes:
    """An array whose header claims something else than is there."""
    shape = draw.choice(("(10000000000000,)", "(-1,)", "(2, 99999)", "()", "(0,)", "(8, 600, 1)",
                         "(1,)*9", "(999999999999999999999,)", "(2L, 600L)"))  # fmt: skip
    descr = draw.choice(("'<i2'", "'<i8'", "'|O'", "'<f4'", "'<U8'", "'|V4000000000'",
                         "[('a','<i2')]", "'>i4'", "'|u1'", "__import__('os')"))  # fmt: skip
    order = draw.choice(("True", "False", "None"))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    claimed = draw.choice((len(header), len(header), 0, 2**16 - 1, draw.randrange(2**16)))
    version = bytes((draw.choice((1, 1, 1, 2, 3, 9)), 0))
    array = b"\x93NUMPY" + version + struct.pack("<H", claimed) + header

    def change(members: dict[str, bytes]) -> None:
        members[f"{draw.choice(KEYS)}.npy"] = array + bytes(draw.choice((0, 1, 1200, 9600)))

    return repacked(data, change)


def other_values(data: bytes, draw: random.Random) -> bytes:
    """Arrays of other shapes, types and ranges."""
    n = draw.choice((0, 1, 2, 399, 600, 601, 5_000))
    shape = draw.choice(((n,), (2, n), (8, n), (n, 8), (1, 2, n), ()))
    dtype = draw.choice(("i1", "u1", ">i2", "<i4", "<i8", "u8", "f4", "f8", "c8", "?", "S4", "U2"))
    low = draw.choice((0, 0, 0, -1, 1023, 9_999, 10_000, 2**31, 2**62))
    array = np.full(shape, low, dtype="i8").astype(dtype)
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    return repacked(data, lambda m: m.update({f"{draw.choice(KEYS)}.npy": held.getvalue()}))


def other_members(data: bytes, draw: random.Random) -> bytes:
    """Members gone, exchanged, too many, of names that lead elsewhere."""

    def change(members: dict[str, bytes]) -> None:
        names = list(members)
        chosen, other = draw.choice(names), draw.choice(names)
        match draw.randrange(5):
            case 0:
                del members[chosen]
            case 1:
                members[chosen], members[other] = members[other], members[chosen]
            case 2:
                members.update({f"extra{n}.npy": b"" for n in range(draw.choice((5, 40, 2_000)))})
            case 3:
                members[f"../../{chosen}"] = members.pop(chosen)
            case 4:
                members[chosen] = b""

    return repacked(data, change)


def other_words(data: bytes, draw: random.Random) -> bytes:
    """What the file says of itself: layouts that aren't, notes without end."""
    word = draw.choice(("", "tiny", "bark\0", "b" * 3_000, "\U0010ffff", "{" * 9_000, "[" * 30_000,
                        '{"name": 3}', '{"name": "' + "n" * 5_000 + '"}', "null"))  # fmt: skip
    held = io.BytesIO()
    np.save(held, np.array(word), allow_pickle=False)
    name = draw.choice(("layout.npy", "metadata.npy"))
    return repacked(data, lambda members: members.update({name: held.getvalue()}))


# --- malice


class _Payload:
    """Unpickled by anything careless, changes this module."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("import benchmarks.reliability.voices as v; v.EXECUTED.append(1)",)


EXECUTED: list[int] = []


def pickled(data: bytes, draw: random.Random) -> bytes:
    """A pickle as the file, as a member, or as an array of objects."""
    program = pickle.dumps(_Payload(), protocol=draw.randrange(2, 5))
    if draw.random() < 0.2:
        return program
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + program
    content = draw.choice((program, array))
    return repacked(data, lambda members: members.update({f"{draw.choice(KEYS)}.npy": content}))


_BOMBS: dict[int, bytes] = {}  # packing one takes longer than reading it may


def bomb(data: bytes, draw: random.Random) -> bytes:
    """Some kilobytes that unpack to many megabytes, and may claim otherwise."""
    n_bytes = draw.choice((900_000, 2**20, 3 * 2**20, 4 * 2**20, 64 * 2**20))
    if n_bytes not in _BOMBS:
        header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({n_bytes // 8},), }}\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        content = start + bytes(n_bytes // 8 * 8)
        member = {f"{KEYS[0]}.npy": content}
        _BOMBS[n_bytes] = repacked(data, lambda members: members.update(member))
    packed = bytearray(_BOMBS[n_bytes])
    if draw.random() < 0.7:  # claim another size in the directory, where it is the first member
        at = packed.find(b"PK\x01\x02")
        claimed = draw.choice((0, 100, 500_000, 2**32 - 1))
        packed[at + 24 : at + 28] = claimed.to_bytes(4, "little")
    return bytes(packed)


MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (flipped, 25), (cut, 8), (spliced, 10), (in_the_directory, 20), (other_header, 10),
    (other_values, 12), (other_members, 6), (other_words, 4), (pickled, 3), (bomb, 2),
)  # fmt: skip


def mutated(number: int, good: bytes) -> tuple[str, bytes]:
    """The name of a mutation and the file of that number; always the same."""
    draw = random.Random(number)
    (mutation,) = draw.choices([m for m, _ in MUTATIONS], [weight for _, weight in MUTATIONS])
    return mutation.__name__, mutation(good, draw)


def measure(n: int) -> Result:
    """Read `n` mutated files, each as an upload is read."""
    good = good_voice()
    load_voice(good, layout=BARK_LAYOUT)  # what is loaded lazily is nobody's cost
    outcomes: Counter[str] = Counter()
    times_ms, broken, worst_mb, n_again = [], [], 0.0, 0
    EXECUTED.clear()
    tracemalloc.start()
    try:
        for number in range(n):
            kind, data = mutated(number, good)
            outcome, took_ms, peak_mb = _measured(data)
            if took_ms > MAX_MS:
                # a busy machine interrupts; what is slow by itself is slow again
                took_ms = min(_measured(data)[1] for _ in range(3))
                n_again += 1
            outcomes[outcome] += 1
            times_ms.append(took_ms)
            worst_mb = max(worst_mb, peak_mb)
            if took_ms > MAX_MS or peak_mb > MAX_MB or outcome.startswith("!"):
                broken.append(f"{number} ({kind}): {outcome}, {took_ms:.1f} ms, {peak_mb:.2f} MB")
    finally:
        tracemalloc.stop()
    if EXECUTED:
        broken.append("a pickle was executed")
    figures = {
        "outcomes": dict(outcomes.most_common()),
        "median_ms": round(statistics.median(times_ms), 2),
        "worst_ms": round(max(times_ms), 1),
        "worst_mb": round(worst_mb, 2),
        "read_again": n_again,
    }
    return Result(figures, tuple(broken))


def _measured(data: bytes) -> tuple[str, float, float]:
    """How a file read, in how many milliseconds of the processor and megabytes."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    started = time.thread_time()
    outcome = _read(data)
    took_ms = (time.thread_time() - started) * 1e3
    return outcome, took_ms, (tracemalloc.get_traced_memory()[1] - before) / 1e6


def _read(data: bytes) -> str:
    """Which typed error it was; "voice": it reads; "!" and a name: something else was raised."""
    try:
        voice = load_voice(data, layout=BARK_LAYOUT)
    except VoiceError as error:
        return type(error).__name__
    except BaseException as error:
        return f"!{type(error).__name__}"
    return "voice" if voice.layout is BARK_LAYOUT else "!another layout"
