"""Laws of the page's languages: what is translated, how it is sent, that nothing is left out."""

from __future__ import annotations

import ast
import asyncio
import html
import importlib.util
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from webui import languages
from webui.languages import (
    COOKIE,
    LANGUAGES,
    InLanguage,
    _,
    building,
    count,
    in_language,
    language_of,
    texts_of,
    translation,
)

WEBUI = Path(languages.__file__).parent
# handlers of programs and the command line speak English, as the core's messages do
ENGLISH_ONLY = {"api.py", "settings.py", "__main__.py", "cli.py", "notebook.py"}
# the same in every language
NAMES = {"Bark Studio", " UTC", "[music]"}
# what reads a text: keyword arguments of Gradio's components
TEXT_ARGUMENTS = {"label", "info", "placeholder", "title"}
COMPONENTS = {
    "Textbox",
    "Dropdown",
    "Slider",
    "Number",
    "Checkbox",
    "CheckboxGroup",
    "Radio",
    "Button",
    "UploadButton",
    "DownloadButton",
    "Accordion",
    "Tab",
    "File",
    "Audio",
    "Markdown",
}


@pytest.fixture
def german(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A table of our own, whatever the files say."""
    table = {
        "Stop": "Anhalten",
        "Save & keep": "Sichern und “behalten”",
        "{n} of {total}": "{n} von {total}",
        "{n} segment": "{n} Abschnitt",
        "{n} segments": "{n} Abschnitte",
        "It’s here": "Es ist da ‘jetzt’",
    }
    known: dict[str, dict[str, str]] = {"de": table}
    monkeypatch.setattr(languages, "texts_of", lambda code: known.get(code, {}))
    return table


# --- who gets which language


@pytest.mark.parametrize(
    ("accept", "cookie", "code"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "", "de"),
        ("pt-BR,pt;q=0.9", "", "en"),  # none that we have
        ("pt-BR, fr;q=0.5, es;q=0.7", "", "es"),
        ("zh-Hant-TW", "", "zh"),
        ("de;q=0, fr", "", "fr"),  # 0: anything but that
        ("de", f"{COOKIE}=ja", "ja"),  # what was chosen counts more
        ("de", f"{COOKIE}=xx", "de"),
        ("", "", "en"),
        (";;;q=,de;q=abc,=", "", "en"),
        ("*", "", "en"),
    ],
)
def test_the_chosen_language_then_the_browser_s(accept: str, cookie: str, code: str) -> None:
    assert language_of({"accept-language": accept, "cookie": cookie}) == code


def test_outside_of_a_page_it_is_english(german: dict[str, str]) -> None:
    assert _("Stop") == "Stop"
    assert count(1, "{n} segment", "{n} segments") == "1 segment"
    assert count(1200, "{n} segment", "{n} segments") == "1,200 segments"


def test_a_text_that_a_language_lacks_stays_english(german: dict[str, str]) -> None:
    assert translation("Stop", "de") == "Anhalten"
    assert translation("Nobody translated this", "de") == "Nobody translated this"
    assert translation("Stop", "fr") == "Stop"


def test_what_is_built_once_can_t_hold_one_reader_s_values() -> None:
    with building(), pytest.raises(ValueError, match="built once"):
        _("{n} of {total}", n=1, total=2)


# --- the page as it is sent


def test_marks_become_the_reader_s_words_in_json(german: dict[str, str]) -> None:
    with building():
        config = {"label": _("Stop"), "both": f"{_('Stop')}: {_('Stop')}", "odd": _("It’s here")}
    for ascii_only in (True, False):
        sent = in_language(json.dumps(config, ensure_ascii=ascii_only), "de")
        assert json.loads(sent) == {
            "label": "Anhalten",
            "both": "Anhalten: Anhalten",
            "odd": "Es ist da ‘jetzt’",
        }


def test_marks_within_markup_stay_escaped(german: dict[str, str]) -> None:
    with building():
        markup = f'<p title="{html.escape(_("Save & keep"))}">x</p>'
    sent = json.loads(in_language(json.dumps({"value": markup}), "de"))["value"]
    assert html.unescape(sent) == '<p title="Sichern und “behalten”">x</p>'
    english = json.loads(in_language(json.dumps({"value": markup}), "en"))["value"]
    assert english == '<p title="Save &amp; keep">x</p>'


def test_no_mark_is_left_and_nothing_else_is_touched(german: dict[str, str]) -> None:
    with building():
        body = json.dumps({"a": _("Stop"), "b": "Stop", "c": "é \\u00e9 </script>"})
    sent = in_language(body, "fr")
    assert not re.search("[\ue000\ue001]|ue000|ue001", sent)
    assert json.loads(sent) == {"a": "Stop", "b": "Stop", "c": "é \\u00e9 </script>"}


def sent_by(body: str, path: str = "/", **headers: str) -> tuple[dict[str, str], str]:
    """What InLanguage makes of an answer that comes in two parts."""
    half = len(body) // 2
    parts = [body[:half].encode(), body[half:].encode()]

    async def page(scope: Any, receive: Any, send: Any) -> None:
        start = [(b"content-type", b"text/html"), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": parts[0], "more_body": True})
        await send({"type": "http.response.body", "body": parts[1]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Any = {"type": "http", "path": path, "headers": raw}
    # in a thread: this one may have a loop that runs, a browser's for instance
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, InLanguage(page)(scope, receive, send)).result()
    got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return got, b"".join(message["body"] for message in sent[1:]).decode()


def test_the_page_says_its_language_and_its_length(german: dict[str, str]) -> None:
    with building():
        body = f'<html lang="en"><script>{json.dumps({"a": _("Stop")})}</script>'
    headers, page = sent_by(body, accept_language="de")
    assert page == '<html lang="de"><script>{"a": "Anhalten"}</script>'
    assert headers["content-length"] == str(len(page.encode()))
    assert headers["content-language"] == "de"
    assert "Accept-Language" in headers["vary"]
    _headers, chosen = sent_by(body, accept_language="de", cookie=f"{COOKIE}=en")
    assert '"Stop"' in chosen


def test_other_answers_go_through_as_they_are(german: dict[str, str]) -> None:
    headers, body = sent_by("\ue000Stop\ue001", path="/studio/sound/x.flac", accept_language="de")
    assert body == "\ue000Stop\ue001"
    assert "content-language" not in headers


# --- the language files


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_translations_hold_the_same_values_and_no_markup(code: str) -> None:
    for english, translated in texts_of(code).items():
        names = re.findall(r"\{(\w*)\}", english)
        assert sorted(set(re.findall(r"\{(\w*)\}", translated))) == sorted(set(names)), english
        assert translated.strip(), english
        assert not set(translated) & set('<&"'), english


# --- nothing is left out


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_every_language_has_every_text(code: str) -> None:
    """`python scripts/texts.py CODE` prints what is missing, to fill in."""
    missing = [text for text in scripts_texts().texts() if text not in texts_of(code)]
    assert missing == []


def test_a_text_that_nobody_translated_would_be_noticed() -> None:
    """The list of all texts reads the code and the presets."""
    every = scripts_texts().texts()
    assert {"Generate", "{n} segment", "{n} segments", "FLAC, lossless", "Steady"} <= set(every)


def scripts_texts() -> Any:
    """scripts/texts.py, which is no package."""
    path = WEBUI.parent / "scripts" / "texts.py"
    spec = importlib.util.spec_from_file_location("texts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(WEBUI.glob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def is_text(value: object) -> bool:
    """Words for people: something with letters that isn't a name of the code."""
    return isinstance(value, str) and bool(re.search(r"[A-Za-z]{2,} |^[A-Z][a-z]+", value))


@pytest.mark.parametrize("path", sorted(WEBUI.glob("*.py")), ids=lambda path: path.stem)
def test_texts_are_literals_where_they_are_asked_for(path: Path) -> None:
    """Or else nobody could list them. A table's texts are marked where the table is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id == "N_":
            assert isinstance(node.args[0], ast.Constant), ast.unparse(node)
        if node.func.id == "_":
            assert not isinstance(node.args[0], ast.JoinedStr | ast.BinOp), ast.unparse(node)
        if node.func.id == "count" and len(node.args) == 3:
            kinds = {type(argument) for argument in node.args[1:]}
            assert kinds == {ast.Constant}, ast.unparse(node)


@pytest.mark.parametrize("path", sorted(WEBUI.glob("*.py")), ids=lambda path: path.stem)
def test_components_have_no_untranslated_text(path: Path) -> None:
    if path.name in ENGLISH_ONLY:
        return
    left = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or called(node) not in COMPONENTS:
            continue
        texts = [keyword.value for keyword in node.keywords if keyword.arg in TEXT_ARGUMENTS]
        if called(node) in {"Button", "Tab", "Accordion", "UploadButton", "Markdown"}:
            texts += node.args[:1]
        for text in texts:
            if isinstance(text, ast.Constant) and is_text(text.value):
                left.append(f"{path.name}:{node.lineno} {text.value!r}")
    assert left == []


@pytest.mark.parametrize("path", sorted(WEBUI.glob("*.py")), ids=lambda path: path.stem)
def test_our_own_markup_has_no_untranslated_text(path: Path) -> None:
    """Between two tags, and in attributes that are read out."""
    if path.name in ENGLISH_ONLY:
        return
    left = []
    for line, markup in literals(ast.parse(path.read_text(encoding="utf-8"))):
        between = re.findall(r">([^<>]*)<", markup)
        read = re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', markup)
        found = [text for text in between + read if re.search("[A-Za-z]{3,}", text)]
        left += [f"{path.name}:{line} {text!r}" for text in found if text not in NAMES]
    assert left == []


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings of the code; a formatted one as a whole, its values left out."""
    within: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.Constant)]
            within |= {id(part) for part in parts}
            # what stands between two values isn't what stands between two tags
            yield (
                node.lineno,
                "".join(str(v.value) if isinstance(v, ast.Constant) else "" for v in node.values),
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in within:
            yield node.lineno, str(node.value)
