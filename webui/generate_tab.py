"""The Generate tab: words, a voice, a mood; the sound as soon as there is some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from bark_core import (
    BarkError,
    GenerationRequest,
    SoundCue,
    random_seed,
    settings_from_metadata,
    sound_cues,
)
from webui import generate_view as view
from webui.controls import OWN_MOOD, Controls, Values, mood_named, mood_of, read_seed
from webui.generate_layout import build_controls
from webui.history import Entry, is_id, new_id
from webui.html import button, escaped, notice, remark
from webui.languages import _
from webui.models import ModelState
from webui.page import Page, event_of
from webui.studio import TAKE, Studio, owner_of
from webui.voice_choice import (
    first_voice,
    fitting_voice,
    needed_models,
    picker,
    resolve_voice,
    segments_of,
)
from webui.watcher import Watcher, examples_of
from webui.words import explain, guarded

FOLLOW = 'watch("value", () => window.barkStudio && window.barkStudio.pulse(props.value));'
# what a browser kept of the settings comes in as an input of the first event
RECALL = "(...values) => [window.barkStudio ? window.barkStudio.recall() : '', ...values.slice(1)]"
KEEP = "(...values) => { window.barkStudio && window.barkStudio.keep(values); }"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, slots=True)
class GenerateTab:
    """What other tabs and the composition need of this one."""

    controls: Controls
    cues: gr.HTML
    plan: gr.HTML
    picker: gr.HTML
    mood_about: gr.HTML
    draft: gr.Textbox
    generate: gr.Button
    stop: gr.Button
    model_note: gr.HTML
    notice: gr.HTML
    running: gr.HTML
    pulse: gr.HTML
    results: gr.HTML

    @property
    def brought_back(self) -> list[Any]:
        """What changes when a take or a voice comes from elsewhere."""
        return [*self.controls.all, self.picker, self.mood_about, self.notice]


def build_generate_tab(page: Page) -> GenerateTab:
    """Lay the tab out."""
    with gr.Row(elem_classes="desk"):
        with gr.Column(scale=7, min_width=320, elem_classes="making"):
            parts, controls = build_controls(page)
        with gr.Column(scale=5, min_width=300, elem_classes="hearing"):
            gr.HTML(
                f'<div class="heading"><h2>{_("Results")}</h2><label><input type="checkbox" '
                f'id="studio-autoplay" checked> {_("play when ready")}</label></div>',
                apply_default_css=False,
            )
            running = page.html(elem_id="running")
            results = page.html(elem_id="results")
    return GenerateTab(
        controls=controls,
        running=running,
        results=results,
        draft=gr.Textbox("", label=_("Draft"), elem_id="draft", visible="hidden"),
        pulse=gr.HTML("", elem_id="pulse", js_on_load=FOLLOW, visible="hidden"),
        **parts,
    )


def connect_generate_tab(tab: GenerateTab, page: Page, masthead: gr.HTML, demo: Any) -> None:
    """Connect the tab's events, those of the page as a whole among them."""
    _connect_writing(tab, page, demo)
    _connect_dials(tab)
    watch, watching = _connect_watching(tab, page, masthead, demo)
    _connect_jobs(tab, page, watch, watching)
    _connect_crossings(tab, page)


def _connect_writing(tab: GenerateTab, page: Page, demo: Any) -> None:
    """The prompt and what follows the chosen model: plan, cues, voices."""
    studio, controls = page.studio, tab.controls

    def plan(text: str, model: str) -> str:
        return plan_line(studio, text or "", model or "")

    controls.prompt.change(
        guarded(plan),
        [controls.prompt, page.model],
        tab.plan,
        trigger_mode="always_last",
        **PRIVATE,
    )

    def begin(draft: str, model: str, request: gr.Request) -> dict[Any, Any]:
        kept = controls.from_draft(draft or "")
        wanted = kept.get(controls.voice, first_voice(studio, model or "", owner_of(request)))
        mood = {tab.mood_about: view.mood_about(kept[controls.mood])} if kept else {}
        return {**kept, **mood, **_of_model(studio, tab, wanted, model or "", owner_of(request))}

    def change(voice: str, model: str, request: gr.Request) -> dict[Any, Any]:
        return _of_model(studio, tab, voice or "", model or "", owner_of(request))

    async def plan_when_loaded(text: str, model: str, request: gr.Request) -> Any:
        with studio.audience.seat("plan", request) as seat:
            while seat.held and studio.models.status(model or "").state.busy:
                await seat.rest(busy=True)
            return plan_line(studio, text or "", model or "") if seat.held else gr.skip()

    following = [controls.voice, tab.picker, tab.cues, tab.model_note]
    shown: dict[str, Any] = {"concurrency_limit": None, **PRIVATE}
    waiting = guarded(plan_when_loaded), [controls.prompt, page.model], tab.plan
    demo.load(
        guarded(begin),
        [tab.draft, page.model],
        [*controls.kept, tab.mood_about, *following[1:]],
        js=RECALL,
        **shown,
    )
    demo.load(*waiting, **shown)
    page.model.change(guarded(change), [controls.voice, page.model], following, **shown)
    page.model.change(*waiting, trigger_mode="always_last", **shown)


def _connect_dials(tab: GenerateTab) -> None:
    """Moods set the dials, dials make the mood one's own, a browser keeps them all."""
    controls = tab.controls

    def set_mood(name: str) -> dict[Any, Any]:
        mood = mood_named(name)
        dials = controls.updates(mood.settings) if mood else {}
        return {**dials, tab.mood_about: view.mood_about(name)}

    def name_mood(values: Values) -> tuple[str, str]:
        try:
            name = mood_of(controls.settings(values))
        except BarkError:  # told when it is handed in
            name = OWN_MOOD
        return name, view.mood_about(name)

    controls.mood.input(
        guarded(set_mood),
        controls.mood,
        [*controls.dials, controls.mood, tab.mood_about],
        **PRIVATE,
    )
    for dial in controls.dials:
        dial.input(
            guarded(name_mood),
            set(controls.dials),
            [controls.mood, tab.mood_about],
            trigger_mode="always_last",
            **PRIVATE,
        )
    gr.on(
        [component.change for component in controls.kept],
        None,
        controls.kept,
        None,
        js=KEEP,
        **PRIVATE,
    )


def _connect_watching(
    tab: GenerateTab, page: Page, masthead: gr.HTML, demo: Any
) -> tuple[Any, dict[str, Any]]:
    """Whoever opens the page, comes back to it or starts something sees what goes on."""
    watching: dict[str, Any] = {
        "inputs": [page.browser, page.model],
        "outputs": [masthead, tab.stop, tab.running, tab.pulse, tab.results, page.model],
        "concurrency_limit": None,
        "trigger_mode": "multiple",
        **PRIVATE,
    }
    watch = guarded(Watcher(page.studio).watch)

    def greet(browser: str) -> str:
        return browser if is_id(browser or "") else new_id()

    demo.load(guarded(greet), page.browser, page.browser, **PRIVATE).then(watch, **watching)
    page.attach.click(watch, **watching)
    page.model.change(watch, **watching)
    return watch, watching


def _connect_jobs(tab: GenerateTab, page: Page, watch: Any, watching: dict[str, Any]) -> None:
    """Generate, Stop, and the buttons on what runs and on results."""
    studio, controls = page.studio, tab.controls

    def begin(values: Values, request: gr.Request) -> tuple[Any, str]:
        return submit(page, tab, values, request)

    tab.generate.click(
        guarded(begin),
        {*controls.all, page.browser, page.model},
        [controls.seed, tab.notice],
        concurrency_limit=None,
        trigger_mode="multiple",
        **PRIVATE,
    ).success(watch, **watching)

    def stop(browser: str, request: gr.Request) -> None:
        studio.desk.stop_all(owner=owner_of(request), browser=browser)

    tab.stop.click(guarded(stop), page.browser, None, concurrency_limit=None, **PRIVATE)

    def act(event: gr.EventData, request: gr.Request) -> None:
        action, target = event_of(event)
        owner = owner_of(request)
        match action:
            case "stop":
                studio.desk.stop(target, owner=owner)
            case "dismiss":
                studio.desk.dismiss(target, owner=owner)
            case "once-more":
                studio.desk.again(target, owner=owner)
            case "favourite":
                entry = studio.history.get(target, owner=owner)
                if entry is not None:
                    studio.history.set_favourite(target, not entry.favourite, owner=owner)

    for component in (tab.running, tab.results):
        component.act(guarded(act), None, None, concurrency_limit=None, **PRIVATE)


def _connect_crossings(tab: GenerateTab, page: Page) -> None:
    """What buttons on results and in other tabs do here."""
    studio = page.studio
    back = tab.brought_back
    page.cross(
        "again",
        "generate",
        back,
        lambda target, model, request: bring_back(studio, tab, target, model, request),
    )
    page.cross(
        "words",
        "generate",
        back,
        lambda target, model, request: same_voice(studio, tab, target, model, request),
    )
    page.cross(
        "use-voice",
        "generate",
        back,
        lambda target, model, request: use_voice(studio, tab, target, model, request),
    )
    page.cross(
        "example",
        "generate",
        back,
        lambda target, model, request: example(studio, tab, target, model),
    )
    page.cross(
        "reseed",
        "generate",
        back,
        lambda target, model, request: once_more(studio, tab, target, request, redo=False),
    )
    page.cross(
        "redo",
        "generate",
        back,
        lambda target, model, request: once_more(studio, tab, target, request, redo=True),
    )
    page.cross("to-system", "system", [], lambda target, model, request: {})


# --- what happens


def submit(page: Page, tab: GenerateTab, values: Values, request: gr.Request) -> tuple[Any, str]:
    """Hand requests in, one for each variation: the first seed, a message where it can't be."""
    controls, studio = tab.controls, page.studio
    owner, model = owner_of(request), values[page.model] or ""
    try:
        seed = read_seed(values[controls.seed], keep=values[controls.keep_seed])
        first = GenerationRequest(
            values[controls.prompt] or "",
            voice=resolve_voice(studio, values[controls.voice] or "", owner),
            seed=seed,
            settings=controls.settings(values),
            retries=int(values[controls.retries]),
            streaming=bool(values[controls.streaming]),
        )
        variations = int(values[controls.variations])
        # all are checked before the first is handed in
        wanted = [replace(first, seed=seed + number) for number in range(variations)]
        group = new_id() if variations > 1 else ""
        for one in wanted:
            studio.desk.submit(
                one, model=model, owner=owner, browser=values[page.browser] or "", group=group
            )
    except BarkError as error:
        return gr.skip(), notice(explain(error))
    return str(seed), ""


def once_more(
    studio: Studio, tab: GenerateTab, entry_id: str, request: gr.Request, *, redo: bool
) -> dict[Any, Any]:
    """Make a take again with another seed; with `redo` its words and their timing stay."""
    owner = owner_of(request)
    entry = _entry(studio, entry_id, owner)
    try:
        kept = tuple(voice.semantic for voice in segments_of(studio, entry)) if redo else None
        wanted = GenerationRequest(
            entry.text,
            voice=resolve_voice(studio, entry.voice_name or "", owner),
            seed=random_seed(),
            settings=settings_from_metadata(entry.details),
            retries=int(entry.details.get("retries") or 0),
            streaming=entry.details.get("streaming") is True,
            words=kept,
        )
        studio.desk.submit(wanted, model=_model_of(studio, entry), owner=owner)
    except BarkError as error:
        return {tab.notice: notice(explain(error))}
    return {tab.notice: ""}


def bring_back(
    studio: Studio, tab: GenerateTab, entry_id: str, model: str, request: gr.Request
) -> dict[Any, Any]:
    """Updates of the tab that bring back what a take was made with."""
    owner = owner_of(request)
    entry = _entry(studio, entry_id, owner)
    wanted = entry.voice_name or ""
    voice = fitting_voice(studio, wanted, model, owner)
    note = ""
    if voice != wanted:
        note = remark(_voice_note(studio, entry, model))
    updates = tab.controls.from_entry(entry)
    return {
        **updates,
        tab.mood_about: view.mood_about(updates[tab.controls.mood]),
        **_with_voice(studio, tab, voice, model, owner),
        tab.notice: note,
    }


def same_voice(
    studio: Studio, tab: GenerateTab, entry_id: str, model: str, request: gr.Request
) -> dict[Any, Any]:
    """Updates that choose the voice of a take, for new words."""
    owner = owner_of(request)
    entry = _entry(studio, entry_id, owner)
    # one that has a name keeps it; one that was rolled goes by its take
    wanted = entry.voice_name or f"{TAKE}{entry.id}"
    voice = fitting_voice(studio, wanted, model, owner)
    note = remark(_voice_note(studio, entry, model)) if voice != wanted else ""
    return {
        tab.controls.prompt: "",
        **_with_voice(studio, tab, voice, model, owner),
        tab.notice: note,
    }


def use_voice(
    studio: Studio, tab: GenerateTab, name: str, model: str, request: gr.Request
) -> dict[Any, Any]:
    """Updates that choose a voice, or say which model it needs."""
    owner = owner_of(request)
    if fitting_voice(studio, name, model, owner) == name:
        return {**_with_voice(studio, tab, name, model, owner), tab.notice: ""}
    layout = next((e.layout for e in studio.voices_of(owner).entries() if e.name == name), "")
    needed = ", ".join(needed_models(studio, layout)) or layout
    note = _("The voice {name} needs another model.", name=name)
    if needed:
        note = _("The voice {name} needs the model {models}.", name=name, models=needed)
    return {tab.notice: remark(f"{note} {_('Choose it at the top of the page.')}")}


def example(studio: Studio, tab: GenerateTab, target: str, model: str) -> dict[Any, Any]:
    """Updates that put an example into the prompt."""
    texts = examples_of(studio, model)
    number = int(target) if target.isdecimal() else 0
    return {tab.controls.prompt: texts[number % len(texts)], tab.notice: ""}


def plan_line(studio: Studio, text: str, model: str) -> str:
    """How a text would be split, how full the segments are, how long it would sound."""
    if not text.strip():
        return view.quiet(_("Any length: a long text becomes segments, and nothing is cut."))
    front, pace = studio.models.front(model), studio.models.pace(model)
    if front is None or pace is None:
        return view.quiet(_("How it will be split shows as soon as the model is loaded."))
    try:
        segments = [segment.text for segment in front.plan(GenerationRequest(text))]
    except BarkError as error:
        return f'<p class="warn">{escaped(error)}</p>'
    planned = [
        view.PlannedSegment(words, front.tokenizer.count(words), pace.duration_s(words))
        for words in segments
    ]
    window = front.config.layout.text_window
    return view.plan_line(planned, window=window, computing_s=pace.computing_s(segments))


# --- the parts of it


def _of_model(
    studio: Studio, tab: GenerateTab, voice: str, model: str, owner: str
) -> dict[Any, Any]:
    """Updates of all that follows the chosen model."""
    status = studio.models.status(model)
    config = studio.models.config(model)
    known = [(cue, config is not None and cue.known_to(config)) for cue in sound_cues()]
    voice = fitting_voice(studio, voice, model, owner)
    return {
        **_with_voice(studio, tab, voice, model, owner),
        tab.cues: view.cue_bar(_known_first(known), status.name),
        tab.model_note: _model_note(status.name, status.state, installed=status.installed),
    }


def _known_first(cues: list[tuple[SoundCue, bool]]) -> list[tuple[SoundCue, bool]]:
    return sorted(cues, key=lambda pair: not pair[1])


def _model_note(name: str, state: ModelState, *, installed: bool) -> str:
    if installed or state in (ModelState.LOADED, ModelState.LOADING):
        return ""
    said = _("The model {name} isn’t on this computer yet.", name=name)
    if state is ModelState.DOWNLOADING:
        said = _("The model {name} is being downloaded.", name=name)
    open_it = button("to-system", name, _("Open System"))
    return f'<p class="remark" role="status">{escaped(said)} {open_it}</p>'


def _with_voice(
    studio: Studio, tab: GenerateTab, voice: str, model: str, owner: str
) -> dict[Any, Any]:
    return {tab.controls.voice: voice, tab.picker: picker(studio, voice, model, owner)}


def _voice_note(studio: Studio, entry: Entry, model: str) -> str:
    name = studio.voice_label(entry.voice_name)
    if entry.layout_name != studio.models.layout_name(model):
        return _(
            "The voice {name} needs the model {models}. Choose it at the top of the page.",
            name=name,
            models=entry.model_name,
        )
    return _("The voice {name} isn’t here any more, so another one is chosen.", name=name)


def _model_of(studio: Studio, entry: Entry) -> str:
    """The model that made a take, or one of its layout where that isn't here."""
    if entry.model_name in studio.models.names():
        return entry.model_name
    return next(iter(needed_models(studio, entry.layout_name)), "")


def _entry(studio: Studio, entry_id: str, owner: str) -> Entry:
    entry = studio.entry(entry_id, owner)
    if entry is None:
        raise gr.Error(
            _("It was deleted meanwhile. Choose another one."), title=_("That take is gone")
        )
    return entry
