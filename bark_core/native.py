"""What is compiled: all .cpp files beside this one, built at first use, kept in the cache folder.

Where there is no C++ compiler, or it fails, there is no library, and computing goes on with
torch's own operations; one line of the log says so. A file in the cache carries a hash of all
that it was made of in its name (source, flags, compiler, what this processor can do), so a home
folder that several machines share holds one for each.

BARK_PROCESSOR=avx2 in the environment builds it for AVX2 alone, as on processors without AVX-512,
and BARK_PROCESSOR=baseline for any x86-64: to measure and to test what those run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from bark_core import processor
from bark_core.errors import InvalidSetting

_log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
SOURCES = tuple(_HERE / f"{name}.cpp" for name in ("decode_step", "products", "attention"))
HEADERS = tuple(_HERE / f"{name}.h" for name in ("native", "tiles"))
FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-w"),
    *("-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
    # a product and a sum become one operation where the source says so, never here and not there:
    # GCC decides anew for each loop, so that a row's numbers depended on how many are beside it
    "-ffp-contract=off",
)
# the second is how some compilers for ARM say it; without either it is still right, but slower
THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
BUILD_TIMEOUT_S = 180.0


class BuildFailed(Exception):
    """Why there is no library."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, None where it can't be had; asked for again, it is the same one.

    The first call blocks for some seconds if the library has to be built.

    Raises:
        InvalidSetting: BARK_PROCESSOR is none of those that there are.
    """
    try:
        return load(default_folder())
    except (BuildFailed, OSError, subprocess.SubprocessError) as error:
        _log.warning("decoding with torch alone, which is slower: %s", error)
        return None


def default_folder() -> Path:
    """Where built libraries are kept."""
    return Path(platformdirs.user_cache_dir("bark-studio", appauthor=False)) / "native"


def load(folder: Path) -> ctypes.CDLL:
    """Load the library from a folder, where it is built if it isn't there.

    Raises:
        BuildFailed: no compiler, or it failed.
        InvalidSetting: BARK_PROCESSOR is none of those that there are.
        OSError: the folder can't be written, or the file not be loaded.
    """
    compiler = _compiler()
    flags, abilities = _flags(compiler)
    key = hashlib.sha256()
    sources = [file.read_bytes() for file in (*SOURCES, *HEADERS)]
    for part in (*sources, " ".join((compiler, *flags)).encode(), abilities):
        key.update(hashlib.sha256(part).digest())
    file = folder / f"bark-{key.hexdigest()[:24]}.so"
    if not file.is_file():
        _build(compiler, flags, file)
    library = ctypes.CDLL(str(file))
    _share_threads(library)
    return library


def _share_threads(library: ctypes.CDLL) -> None:
    """Have it compute with torch's own threads, where torch's OpenMP is GNU's."""
    try:
        program = ctypes.CDLL(None)
        functions = (program.GOMP_parallel, program.omp_get_num_threads)
    except (AttributeError, OSError, TypeError):  # another OpenMP, or another system
        return
    library.bark_share_threads(*(ctypes.cast(one, ctypes.c_void_p) for one in functions))


def _compiler() -> str:
    """The C++ compiler: the one that the variable CXX names, else the first of the usual ones."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    raise BuildFailed(
        f"there is no C++ compiler {named!r}" if named else "there is no C++ compiler"
    )


def _flags(compiler: str) -> tuple[tuple[str, ...], bytes]:
    """Flags that make most of this processor, and the macros that say what that is."""
    for chosen in _choices():
        command = [compiler, *chosen, "-dM", "-E", "-x", "c++", os.devnull]
        done = subprocess.run(command, capture_output=True, timeout=BUILD_TIMEOUT_S, check=False)
        if done.returncode == 0:
            return chosen, done.stdout
    raise BuildFailed(f"{compiler} doesn't understand the flags {' '.join(FLAGS)}")


def _choices() -> Iterator[tuple[str, ...]]:
    level = processor.level()
    if not level:
        for of_processor in THIS_PROCESSOR:
            yield (*FLAGS, *of_processor)
        return
    if level not in processor.LEVELS:
        raise InvalidSetting(
            f"the variable {processor.VARIABLE} must be one of {', '.join(processor.LEVELS)}, got "
            f"{level[:40]!r}; leave it out to use all that this processor can"
        )
    yield (*FLAGS, f"-march={processor.LEVELS[level][0]}")


def _build(compiler: str, flags: tuple[str, ...], file: Path) -> None:
    """Compile into a file of another name first, for others may be building the same one."""
    _log.info("building %s, once; this takes some seconds", file.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.stem}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        command = [compiler, *flags, "-o", str(unfinished), *map(str, SOURCES)]
        done = subprocess.run(command, capture_output=True, timeout=BUILD_TIMEOUT_S, check=False)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise BuildFailed(f"{compiler} failed: {said[0] if said else done.returncode}")
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
