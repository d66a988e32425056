"""Every route by two people, with each other's ids, and hostile paths: no leak, nothing outside.

Ann makes a result, a script with sound, a voice, an upload and an export. Bob asks for each by
its true address, then changes it by every endpoint; then both ask for paths that lead out of the
data folder. No answer to Bob may hold anything of Ann's, no answer at all anything from outside,
and Ann's things must be as they were.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.reliability.result import Result
from tests.page_model import LAYOUT, save_page_model
from tests.people import Person, people
from tests.served import Answer

N = 200  # paths
SECRET = "the words that are nobody's but Ann's"
OUTSIDE = b"what lies outside of the data folder"

TARGETS = ("outside.flac", "outside.npz", "outside.json", "data/history.sqlite3", "data/audit.key")
LEADS = ("..", "....", "%2e%2e", "..%2f..", "..\\..", "%252e%252e", ".%00.", "~", "/", "//", "C:")
ROUTES = (
    "studio/sound/{}.flac",
    "studio/sound/{}",
    "studio/live/{}/0.flac",
    "studio/voice/{}.npz",
    "studio/voice/{}.flac",
    "studio/take-voice/{}/0.flac",
    "studio/script/{}/export.json",
    "studio/script/x/take/{}.flac",
    "studio/script/x/mix/{}.flac",
    "studio/export/{}.zip",
    "gradio_api/file={}",
    "assets/{}",
    "static/{}",
)


def measure(n: int = N) -> Result:
    """Swap all ids, and try n paths."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for target in TARGETS[:3]:
            (folder / target).write_bytes(OUTSIDE)
        model = save_page_model(folder / "page")
        with people(model, folder / "data", "ann", "bob") as (_served, (ann, bob)):
            things = _things(ann)
            before = _state(ann)
            broken = list(_swapped(ann, bob, things))
            if _state(ann) != before:
                broken.append("something of Ann's was changed")
            answers = Counter[int]()
            for path in itertools.islice(_paths(folder), n):
                for person in (ann, bob):
                    answer = person.ask("GET", path)
                    answers[answer.status] += 1
                    if answer.status >= 500 or _leaks(answer, folder):
                        broken.append(f"GET {path}: {answer.status}")
            n_outside = sum(1 for path in folder.iterdir()) - len(TARGETS[:3]) - 2
    figures = {
        "things_of_ann": len(things),
        "paths": n,
        "answers_to_paths": {str(k): v for k, v in sorted(answers.items())},
        "files_outside": n_outside,
    }
    if n_outside:
        broken.append(f"{n_outside} things more beside the data folder")
    return Result(figures, tuple(broken))


def _things(ann: Person) -> dict[str, tuple[str, str]]:
    """Addresses of what is Ann's: name -> method and path; all of them answer her."""
    studio = ann.served.studio
    _file, how = ann.call("generate", SECRET, "", 5, None, None, None, "bark", 0, "")
    entry_id = how["id"]
    voice = studio.history.segments(entry_id, LAYOUT, owner="ann")[0]
    studio.voices_of("ann").save(voice, "anns own")
    _file, told = ann.call("script", f"Ann: {SECRET}", None, "", SECRET)
    script = told["id"]
    take = next(iter(studio.scripts.open(script, "ann").project.files))
    key = studio.scripts.mix(script, "ann").key
    file, _how = ann.call("history_get", entry_id)
    upload = ann.upload("mine.txt", SECRET.encode())
    export = json.loads(ann.post("studio/export", {"ids": [entry_id]}).body)["url"]
    gets = {
        "sound": f"studio/sound/{entry_id}.flac",
        "script take": f"studio/script/{script}/take/{take}.flac",
        "script mix": f"studio/script/{script}/mix/{key}.flac",
        "script export": f"studio/script/{script}/export.json",
        "handed out": f"gradio_api/file={file['path']}",
        "upload": f"gradio_api/file={upload}",
        "export": export,
        "voice": "studio/voice/anns%20own.npz",
        "voice as a sound": "studio/voice/anns%20own.flac",
        "voice of a segment": f"studio/take-voice/{entry_id}/0.flac",
    }
    for name, path in gets.items():
        answer = ann.ask("GET", path)
        if answer.status != 200:
            raise RuntimeError(f"Ann can't get her own {name}: {answer.status}")
    calls = {
        "history_get": ("history_get", entry_id),
        "take as a voice": ("generate", f"take:{entry_id}"),
        "voice to speak with": ("generate", "anns own"),
    }
    return {name: ("GET", path) for name, path in gets.items()} | calls


def _swapped(ann: Person, bob: Person, things: dict[str, tuple[str, str]]) -> Iterator[str]:
    for name, (how, what) in things.items():
        if how == "GET":
            for method in ("GET", "HEAD"):
                answer = bob.ask(method, what)
                if answer.status == 200 or SECRET.encode() in answer.body:
                    yield f"Bob gets Ann's {name} by {method}: {answer.status}"
        else:
            values: list[Any] = [what]
            if how == "generate":
                values = ["Hello.", what, 5, None, None, None, "bark", 0, ""]
            begun = bob.post(f"gradio_api/call/{how}", {"data": values})
            event = json.loads(begun.body)["event_id"]
            told = bob.ask("GET", f"gradio_api/call/{how}/{event}").body
            if b"event: complete" in told or SECRET.encode() in told:
                yield f"Bob gets Ann's {name} by calling {how}"
    for endpoint, values in (("history", ["", 500, 0]), ("jobs", []), ("voices", [""])):
        seen = json.dumps(bob.call(endpoint, *values))
        if SECRET in seen or "anns own" in seen:
            yield f"Bob sees Ann's things in {endpoint}"
    entry_id = things["history_get"][1]
    for index, function in ann.served.demo.fns.items():
        if not any(event == "act" for _block, event in function.targets):
            continue
        for action in ("trash", "again"):
            body = {
                "data": [None] * len(function.inputs),
                "fn_index": index,
                "session_hash": "bobspage",
                "event_data": {"action": action, "target": entry_id},
            }
            bob.post("gradio_api/queue/join", body)
    heard = bob.ask("GET", "gradio_api/queue/data?session_hash=bobspage").body
    if SECRET.encode() in heard or SECRET.replace("'", "&#x27;").encode() in heard:
        yield "Bob hears Ann's words from the page's own functions"


def _state(ann: Person) -> Any:
    studio = ann.served.studio
    entries = studio.history.search(owner="ann", limit=1000)
    scripts = studio.scripts.entries("ann")
    return entries, [(script.id, script.title) for script in scripts]


def _paths(folder: Path) -> Iterator[str]:
    """From every route, by every lead, to every target; what comes first is a mixture."""
    spelled = []
    for lead, target, depth in itertools.product(LEADS, TARGETS, (1, 2, 4)):
        spelled.append("/".join([lead] * depth + [target]))
    spelled += [f"{folder}/{target}" for target in TARGETS]
    spelled += [quote(f"{folder}/{target}", safe="") for target in TARGETS]
    spelled += ["/etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd", "x%0d%0aSet-Cookie:a=b"]
    every = list(itertools.product(spelled, ROUTES))
    for number in range(len(every)):
        path, route = every[number * 7919 % len(every)]
        yield route.format(path).replace(" ", "%20").replace("\\", "%5C")


def _leaks(answer: Answer, folder: Path) -> bool:
    marks = (OUTSIDE, b"root:x:0", b"SQLite format 3", (folder / "data/audit.key").read_bytes())
    return any(mark in answer.body for mark in marks) or "a=b" in str(answer.headers)
