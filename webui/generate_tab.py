"""The Generate tab: words, a voice, a few settings; the sound as soon as there is some."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from bark_core import (
    BarkError,
    CoarseParams,
    FineParams,
    GenerationRequest,
    InvalidSetting,
    SemanticParams,
    Settings,
    random_seed,
)
from webui import takes
from webui.history import Entry, is_id, new_id
from webui.studio import Studio, owner_of
from webui.words import EXAMPLES, about, count, explain, guarded

N_RESULTS = 8
LOOK_EVERY_S = 0.15
N_WATCHED = 5  # components that a watcher keeps up to date
CLICKS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) trigger("act", {action: button.dataset.action, target: button.dataset.target});
});
"""
FOLLOW = 'watch("value", () => window.barkStudio && window.barkStudio.pulse(props.value));'

Values = Mapping[Any, Any]  # component -> value, as Gradio hands them over


@dataclass(frozen=True, slots=True)
class Controls:
    """The components that a request is read from."""

    prompt: gr.Textbox
    voice: gr.Dropdown
    words_temperature: gr.Slider
    sound_temperature: gr.Slider
    detail_temperature: gr.Slider
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    words_top_k: gr.Number
    words_top_p: gr.Slider
    sound_top_k: gr.Number
    sound_top_p: gr.Slider
    end_threshold: gr.Slider
    longest_s: gr.Number

    @property
    def all(self) -> list[Any]:
        return [getattr(self, name) for name in self.__dataclass_fields__]

    def settings(self, values: Values) -> Settings:
        """Raises InvalidSetting: one of them is out of its range."""
        threshold = values[self.end_threshold]
        return Settings(
            semantic=SemanticParams(
                temperature=values[self.words_temperature],
                top_k=_top_k(values[self.words_top_k], "words"),
                top_p=_top_p(values[self.words_top_p]),
                min_eos_p=None if threshold == 1 else threshold,
                max_duration_s=values[self.longest_s] or None,
            ),
            coarse=CoarseParams(
                temperature=values[self.sound_temperature],
                top_k=_top_k(values[self.sound_top_k], "sound"),
                top_p=_top_p(values[self.sound_top_p]),
            ),
            fine=FineParams(temperature=values[self.detail_temperature]),
        )

    def from_entry(self, entry: Entry, known_voices: set[str]) -> dict[Any, Any]:
        """Updates that bring a take's text, voice, seed and settings back."""
        settings = entry.details.get("settings", {})
        words, sound = settings.get("semantic", {}), settings.get("coarse", {})
        voice = entry.voice_name or ""
        threshold = words.get("min_eos_p", 0.2)
        return {
            self.prompt: entry.text,
            self.voice: voice if voice in known_voices else "",
            self.words_temperature: words.get("temperature", 0.7),
            self.sound_temperature: sound.get("temperature", 0.7),
            self.detail_temperature: settings.get("fine", {}).get("temperature", 0.5),
            self.seed: str(entry.seed),
            self.keep_seed: True,
            self.words_top_k: words.get("top_k") or 0,
            self.words_top_p: 1.0 if words.get("top_p") is None else words["top_p"],
            self.sound_top_k: sound.get("top_k") or 0,
            self.sound_top_p: 1.0 if sound.get("top_p") is None else sound["top_p"],
            self.end_threshold: 1.0 if threshold is None else threshold,
            self.longest_s: words.get("max_duration_s") or 0,
        }


@dataclass(frozen=True, slots=True)
class GenerateTab:
    """What other tabs and the composition need of this one."""

    controls: Controls
    browser: gr.BrowserState
    plan: gr.HTML
    voice_about: gr.HTML
    generate: gr.Button
    stop: gr.Button
    attach: gr.Button
    notice: gr.HTML
    running: gr.HTML
    pulse: gr.HTML
    results: gr.HTML


def build_generate_tab(studio: Studio) -> GenerateTab:
    """Lay the tab out and connect what happens within it."""
    # not a secret: what can be done with it is checked by owner. Without one, Gradio makes one
    # at each start and can't read what the last one wrote
    browser = gr.BrowserState("", storage_key="bark-studio-browser", secret="bark-studio")
    with gr.Row(elem_classes="desk"):
        with gr.Column(scale=7, min_width=320, elem_classes="making"):
            prompt = gr.Textbox(
                label="What should be said?",
                placeholder="Good evening, and welcome to the studio.",
                lines=3,
                max_lines=16,
                max_length=100_000,
                elem_id="prompt",
            )
            plan = gr.HTML(plan_line(studio, ""), elem_id="plan", apply_default_css=False)
            voice, voice_about = _voice(studio)
            temperatures = _temperatures()
            seed, keep_seed = _seed()
            more = _more()
            notice = gr.HTML("", elem_id="notice", apply_default_css=False)
            with gr.Row(elem_classes="actions"):
                generate = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
                stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=1)
        with gr.Column(scale=5, min_width=300, elem_classes="hearing"):
            gr.HTML(
                '<div class="heading"><h2>Results</h2><label><input type="checkbox" '
                'id="studio-autoplay" checked> play when ready</label></div>',
                apply_default_css=False,
            )
            running = gr.HTML("", elem_id="running", js_on_load=CLICKS, apply_default_css=False)
            results = gr.HTML("", elem_id="results", js_on_load=CLICKS, apply_default_css=False)
    pulse = gr.HTML("", elem_id="pulse", js_on_load=FOLLOW, visible="hidden")
    attach = gr.Button("Look again", elem_id="attach", visible="hidden")
    controls = Controls(prompt, voice, *temperatures, seed, keep_seed, *more)
    return GenerateTab(
        controls,
        browser,
        plan,
        voice_about,
        generate,
        stop,
        attach,
        notice,
        running,
        pulse,
        results,
    )


def connect_generate_tab(tab: GenerateTab, studio: Studio, masthead: gr.HTML, demo: Any) -> None:
    """Connect the tab's events, those of the page as a whole among them."""
    controls = tab.controls
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def plan(text: str) -> str:
        return plan_line(studio, text)

    controls.prompt.change(
        guarded(plan), controls.prompt, tab.plan, trigger_mode="always_last", **private
    )

    def describe(name: str | None) -> str:
        return _quiet(takes.escaped(studio.voice_description(name or "")))

    controls.voice.change(guarded(describe), controls.voice, tab.voice_about, **private)
    watching: dict[str, Any] = {
        "inputs": tab.browser,
        "outputs": [masthead, tab.stop, tab.running, tab.pulse, tab.results],
        "concurrency_limit": None,
        "trigger_mode": "multiple",
        **private,
    }
    watch = guarded(Watcher(studio).watch)

    def greet(browser: str) -> str:
        return browser if is_id(browser or "") else new_id()

    async def list_voices() -> Any:
        while not studio.desk.loaded.is_set():
            await asyncio.sleep(LOOK_EVERY_S)
        return gr.update(choices=studio.voice_choices(), value=studio.first_voice())

    demo.load(guarded(greet), tab.browser, tab.browser, **private).then(watch, **watching)
    demo.load(guarded(list_voices), None, controls.voice, concurrency_limit=None, **private)
    tab.attach.click(watch, **watching)

    def begin(values: Values, request: gr.Request) -> tuple[Any, str]:
        return submit(studio, tab, values, request)

    tab.generate.click(
        guarded(begin),
        {*controls.all, tab.browser},
        [controls.seed, tab.notice],
        concurrency_limit=None,
        trigger_mode="multiple",
        **private,
    ).success(watch, **watching)

    def stop(browser: str, request: gr.Request) -> None:
        studio.desk.stop_all(owner=owner_of(request), browser=browser)

    tab.stop.click(guarded(stop), tab.browser, None, queue=False, **private)

    def act_on_running(event: gr.EventData, request: gr.Request) -> None:
        action, target = event_of(event)
        if action == "stop":
            studio.desk.stop(target, owner=owner_of(request))
        elif action == "dismiss":
            studio.desk.dismiss(target, owner=owner_of(request))

    tab.running.act(guarded(act_on_running), None, None, queue=False, **private)


# --- what happens


def submit(
    studio: Studio, tab: GenerateTab, values: Values, request: gr.Request
) -> tuple[Any, str]:
    """Hand a request in: the seed as it is used, a message where it can't be."""
    try:
        seed = _read_seed(values[tab.controls.seed], keep=values[tab.controls.keep_seed])
        wanted = GenerationRequest(
            values[tab.controls.prompt] or "",
            voice=studio.voice(values[tab.controls.voice] or ""),
            seed=seed,
            settings=tab.controls.settings(values),
        )
        browser = values[tab.browser] or ""
        studio.desk.submit(wanted, owner=owner_of(request), browser=browser)
    except BarkError as error:
        return gr.skip(), takes.notice(explain(error))
    return str(seed), ""


def bring_back(
    studio: Studio, tab: GenerateTab, entry_id: str, request: gr.Request
) -> dict[Any, Any]:
    """Updates of the tab that bring back what a take was made with."""
    entry = studio.history.get(entry_id, owner=owner_of(request))
    if entry is None:
        raise gr.Error("It was deleted meanwhile. Choose another one.", title="That take is gone")
    known = {entry.name for entry in studio.voice_entries()}
    updates = tab.controls.from_entry(entry, known)
    note = ""
    if entry.voice_name is not None and entry.voice_name not in known:
        note = takes.remark(
            f"The voice {entry.voice_name} isn't here, so a new one would be rolled."
        )
    return {**updates, tab.notice: note}


def example(tab: GenerateTab, target: str) -> dict[Any, Any]:
    """Updates that put an example into the prompt."""
    number = int(target) if target.isdecimal() else 0
    return {tab.controls.prompt: EXAMPLES[number % len(EXAMPLES)], tab.notice: ""}


def event_of(event: gr.EventData) -> tuple[str, str]:
    """What was pressed in one of our own HTML components, and for what."""
    data = event._data if isinstance(event._data, Mapping) else {}
    return str(data.get("action", "")), str(data.get("target", ""))


def plan_line(studio: Studio, text: str) -> str:
    """How a text would be split, how full the segments are, how long it would sound."""
    if not text.strip():
        return _quiet("Any length: a long text becomes segments, and nothing is cut.")
    desk = studio.desk
    if desk.cascade is None or desk.pace is None:
        return _quiet("How it will be split shows as soon as the model is loaded.")
    try:
        segments = [s.text for s in desk.cascade.plan(GenerationRequest(text))]
    except BarkError as error:
        return f'<p class="warn">{takes.escaped(error)}</p>'
    window = desk.cascade.config.layout.text_window
    tokens = [desk.cascade.tokenizer.count(segment) for segment in segments]
    if len(tokens) <= 4:
        shown = " and ".join(filter(None, [", ".join(map(str, tokens[:-1])), str(tokens[-1])]))
        fill = f"<b>{shown}</b> of {window} tokens"
    else:
        fill = f"<b>{min(tokens)} to {max(tokens)}</b> of {window} tokens each"
    sound = about(sum(desk.pace.duration_s(segment) for segment in segments))
    parts = [f"<b>{count(len(segments), 'segment', 'segments')}</b>", fill, f"{sound} of sound"]
    computing_s = desk.pace.computing_s(segments)
    if computing_s is not None:
        parts.append(f"made in {about(computing_s)}")
    return _quiet(", ".join(parts))


class Watcher:
    """Shows pages what goes on: the model, this browser's jobs, the newest results.

    A page that reloads, a second tab, one that comes back: each attaches anew. Jobs don't
    notice any of it.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._newest: dict[str | None, object] = {}  # of each session, who may speak

    async def watch(
        self, browser: str, request: gr.Request
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Update after update, for as long as the page looks."""
        session, me = request.session_hash, object()
        self._newest[session] = me
        shown: tuple[Any, ...] = ()
        try:
            # one voice speaks to a page: who attaches later takes over
            while self._newest.get(session) is me:
                now = await asyncio.to_thread(self._look, owner_of(request), browser, shown)
                if now != shown:
                    yield self._update(now)
                    shown = now
                busy = bool(now[2])
                await asyncio.sleep(LOOK_EVERY_S if busy else 3 * LOOK_EVERY_S)
            # Gradio sends the last values again at the end, over those of who took over
            yield (gr.skip(),) * N_WATCHED
        finally:
            if self._newest.get(session) is me:
                del self._newest[session]

    def _look(self, owner: str, browser: str, shown: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the page should show: values that can be compared."""
        studio = self._studio
        views = studio.desk.views(owner=owner, browser=browser)
        unfinished = any(not view.state.over for view in views)
        version = (studio.history.version, bool(views))
        results = shown[4] if shown else None
        if results is None or results[0] != version:
            results = (version, self._results(owner, running=bool(views)))
        masthead = takes.masthead(studio.desk.status())
        return masthead, unfinished, takes.running(views), takes.pulse(views), results

    def _results(self, owner: str, *, running: bool) -> str:
        studio = self._studio
        entries = studio.history.search(owner=owner, limit=N_RESULTS + 1)
        older = len(entries) > N_RESULTS
        return takes.results(entries[:N_RESULTS], studio.voice_label, running=running, older=older)

    @staticmethod
    def _update(now: tuple[Any, ...]) -> tuple[Any, ...]:
        # every value every time: a browser that is busy sees only the last of several updates,
        # and what one of them alone had said would be lost. Equal values change nothing there
        masthead, unfinished, running, pulse, results = now
        return masthead, gr.update(interactive=unfinished), running, pulse, results[1]


# --- the parts of the layout


def _voice(studio: Studio) -> tuple[gr.Dropdown, gr.HTML]:
    with gr.Row(elem_classes="voice"):
        voice = gr.Dropdown(
            studio.voice_choices(),
            value="",
            label="Voice",
            elem_id="voice",
            min_width=200,
        )
        description = gr.HTML(
            _quiet(studio.voice_description("")),
            elem_id="voice-about",
            min_width=200,
            apply_default_css=False,
        )
    return voice, description


def _temperatures() -> tuple[gr.Slider, gr.Slider, gr.Slider]:
    def slider(label: str, info: str, value: float, name: str) -> gr.Slider:
        return gr.Slider(
            0.0,
            1.5,
            value,
            step=0.05,
            label=label,
            info=info,
            elem_id=name,
            elem_classes="dial",
        )

    with gr.Group(elem_classes="dials"):
        return (
            slider(
                "Wording",
                "How freely it speaks: low is steady, high is lively (semantic temperature)",
                0.7,
                "words-temperature",
            ),
            slider(
                "Timbre",
                "How far the voice may wander from itself (coarse temperature)",
                0.7,
                "sound-temperature",
            ),
            slider(
                "Detail",
                "The finest grain: low is clean, high is airy (fine temperature)",
                0.5,
                "detail-temperature",
            ),
        )


def _seed() -> tuple[gr.Textbox, gr.Checkbox]:
    with gr.Row(elem_classes="seed"):
        seed = gr.Textbox(
            label="Seed",
            info="The same words, voice, settings and seed give the same sound",
            placeholder="a new one each time",
            max_length=20,
            elem_id="seed",
            elem_classes="dial",
        )
        keep = gr.Checkbox(label="Keep this seed", elem_id="keep-seed", min_width=140)
    return seed, keep


def _more() -> tuple[Any, ...]:
    """In the order of Controls: top-k and top-p of words and sound, end threshold, longest."""

    def number(label: str, info: str, name: str) -> gr.Number:
        return gr.Number(0, label=label, info=info, elem_id=name, elem_classes="dial")

    def slider(label: str, info: str, low: float, value: float, name: str) -> gr.Slider:
        return gr.Slider(
            low, 1.0, value, step=0.01, label=label, info=info, elem_id=name, elem_classes="dial"
        )

    def top_k(what: str) -> gr.Number:
        info = f"How many of the likeliest {what} tokens may be drawn; 0 allows all (top-k)"
        return number(f"Choices, {what}", info, f"{what}-top-k")

    def top_p(what: str) -> gr.Slider:
        info = f"Leaves out unlikely {what} tokens: lower is plainer, 1 allows all (top-p)"
        return slider(f"Likelihood, {what}", info, 0.0, 1.0, f"{what}-top-p")

    with (
        gr.Accordion("More: choices, ending, length", open=False, elem_id="more"),
        gr.Group(elem_classes="dials"),
    ):
        choices = top_k("words"), top_p("words"), top_k("sound"), top_p("sound")
        threshold = slider(
            "Ending",
            "How sure it must be to be done; 1 leaves it to chance (end threshold)",
            0.01,
            0.2,
            "end-threshold",
        )
        longest = number(
            "Longest",
            "Seconds after which a segment ends; 0 is the model's own limit",
            "longest",
        )
    return *choices, threshold, longest


def _quiet(text: str) -> str:
    return f'<p class="about">{text}</p>'


def _read_seed(text: str | None, *, keep: bool) -> int:
    digits = (text or "").strip().replace(" ", "")
    if not keep or not digits:
        return random_seed()
    if not digits.isascii() or not digits.isdecimal():
        raise InvalidSetting(
            f"the seed must be a whole number from 0 on, got {digits[:30]!r}; "
            "type digits only, or clear the field for a new one"
        )
    return int(digits)


def _top_k(value: float | None, what: str) -> int | None:
    if not value:
        return None
    if not math.isfinite(value) or value != int(value):
        raise InvalidSetting(f"top-k of {what} must be a whole number, got {value!r}; 0 allows all")
    return int(value)


def _top_p(value: float) -> float | None:
    return None if value == 1 else value
