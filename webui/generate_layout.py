"""The left side of the Generate tab: what goes into a request, top to bottom."""

from __future__ import annotations

from typing import Any

import gradio as gr

from bark_core import moods
from webui import generate_view as view
from webui.controls import FIRST_MOOD, MAX_RETRIES, MAX_VARIATIONS, OWN_MOOD, Controls, mood_named
from webui.languages import _
from webui.page import Page

TOP_TEMPERATURE = 1.5


def build_controls(page: Page) -> tuple[dict[str, Any], Controls]:
    """Lay out prompt, plan, cues, voice, mood, dials and the buttons.

    Returns:
        the parts that aren't settings, by their names in GenerateTab; the settings.
    """
    prompt = gr.Textbox(
        label=_("What should be said?"),
        placeholder=_("Good evening, and welcome to the studio."),
        lines=3,
        max_lines=16,
        max_length=100_000,
        elem_id="prompt",
    )
    plan = page.html(
        view.quiet(_("Any length: a long text becomes segments, and nothing is cut.")),
        elem_id="plan",
        acts=False,
    )
    cues = page.html(elem_id="cues", acts=False)
    picker = page.html(elem_id="voices-of-model", acts=False)
    voice = gr.Textbox("", label=_("Voice"), elem_id="voice", visible="hidden")
    mood, mood_about = _mood(page)
    with gr.Accordion(_("More: temperatures, seed, ending, length"), open=False, elem_id="more"):
        dials = _dials()
        seed, keep_seed = _seed()
    model_note = page.html(elem_id="model-note")
    notice = page.html(elem_id="notice")
    generate, variations, stop = _buttons()
    parts = {
        "plan": plan,
        "cues": cues,
        "picker": picker,
        "mood_about": mood_about,
        "model_note": model_note,
        "notice": notice,
        "generate": generate,
        "stop": stop,
    }
    return parts, Controls(
        prompt=prompt,
        voice=voice,
        mood=mood,
        seed=seed,
        keep_seed=keep_seed,
        variations=variations,
        **dials,
    )


def _mood(page: Page) -> tuple[gr.Radio, gr.HTML]:
    choices = [(_(mood.title), mood.name) for mood in moods()]
    first = mood_named(FIRST_MOOD) or moods()[0]
    with gr.Column(elem_classes="mood"):
        mood = gr.Radio(
            [*choices, (_("Your own"), OWN_MOOD)],
            value=first.name,
            label=_("Mood"),
            elem_id="mood",
            elem_classes="segmented",
        )
        about = page.html(view.quiet(_(first.about)), elem_id="mood-about", acts=False)
    return mood, about


def _dials() -> dict[str, Any]:
    """By their names in Controls: temperatures, choices, ending, length, retries."""
    with gr.Group(elem_classes="dials"):
        temperatures = {
            "words_temperature": _temperature(
                _("Wording"),
                _("How freely it speaks: low is steady, high is lively (semantic temperature)"),
                0.7,
                "words-temperature",
            ),
            "sound_temperature": _temperature(
                _("Timbre"),
                _(
                    "How much the sound of the same words may vary: low is nearly the same each "
                    "time (coarse temperature)"
                ),
                0.7,
                "sound-temperature",
            ),
            "detail_temperature": _temperature(
                _("Detail"),
                _(
                    "How much the finest grain may vary; the least heard of the three "
                    "(fine temperature)"
                ),
                0.5,
                "detail-temperature",
            ),
        }
        return {**temperatures, **_choices(), **_ending()}


def _choices() -> dict[str, Any]:
    return {
        "words_top_k": _number(
            _("Choices, words"),
            _("How many of the likeliest sounds may follow; 0 allows all (semantic top-k)"),
            "words-top-k",
        ),
        "words_top_p": _share(
            _("Likelihood, words"),
            _("Leaves unlikely sounds out: lower is plainer, 1 allows all (semantic top-p)"),
            0.0,
            1.0,
            "words-top-p",
        ),
        "sound_top_k": _number(
            _("Choices, timbre"),
            _("How many of the likeliest timbres may follow; 0 allows all (coarse top-k)"),
            "sound-top-k",
        ),
        "sound_top_p": _share(
            _("Likelihood, timbre"),
            _("Leaves unlikely timbres out: lower is duller, 1 allows all (coarse top-p)"),
            0.0,
            1.0,
            "sound-top-p",
        ),
    }


def _ending() -> dict[str, Any]:
    return {
        "end_threshold": _share(
            _("Ending"),
            _("How sure it must be to be done; 1 leaves it to chance (end threshold)"),
            0.01,
            0.2,
            "end-threshold",
        ),
        "longest_s": _number(
            _("Longest"),
            _("Seconds after which a segment ends; 0 is the limit of the model itself"),
            "longest",
        ),
        **_speed(),
        "retries": gr.Slider(
            0,
            MAX_RETRIES,
            0,
            step=1,
            label=_("Further takes"),
            info=_("How often a segment that went wrong is made anew by itself (retries)"),
            elem_id="retries",
            elem_classes="dial",
        ),
    }


def _speed() -> dict[str, Any]:
    """What is quicker, and sounds a little different."""
    return {
        "sound_history": _number(
            _("Memory, timbre"),
            _(
                "Codes of the sound so far that the timbre looks back on; 0 is all, fewer are "
                "quicker and less steady (coarse history)"
            ),
            "sound-history",
        ),
        "streaming": gr.Checkbox(
            label=_("Sound at once"),
            info=_(
                "You hear it before the sentence is finished; the finest detail is a little "
                "rougher, for it can't wait for what follows (streaming)"
            ),
            elem_id="streaming",
            elem_classes="dial",
        ),
    }


def _seed() -> tuple[gr.Textbox, gr.Checkbox]:
    with gr.Row(elem_classes="seed"):
        seed = gr.Textbox(
            label=_("Seed"),
            info=_("The same words, voice, settings and seed give the same sound"),
            placeholder=_("a new one each time"),
            max_length=20,
            elem_id="seed",
            elem_classes="dial",
        )
        keep = gr.Checkbox(label=_("Keep this seed"), elem_id="keep-seed", min_width=140)
    return seed, keep


def _buttons() -> tuple[gr.Button, gr.Dropdown, gr.Button]:
    # each by itself: what is built once can't hold numbers
    takes = (
        _("1 take"),
        _("2 takes"),
        _("3 takes"),
        _("4 takes"),
        _("5 takes"),
        _("6 takes"),
        _("7 takes"),
        _("8 takes"),
    )
    with gr.Row(elem_classes="actions"):
        generate = gr.Button(_("Generate"), variant="primary", elem_id="generate", scale=4)
        variations = gr.Dropdown(
            list(zip(takes, range(1, MAX_VARIATIONS + 1), strict=True)),
            value=1,
            label=_("How many takes, each with a seed of its own"),
            elem_id="variations",
            filterable=False,
            min_width=104,
            scale=1,
        )
        stop = gr.Button(_("Stop"), elem_id="stop", interactive=False, scale=1, min_width=88)
    return generate, variations, stop


def _temperature(label: str, info: str, value: float, name: str) -> gr.Slider:
    return gr.Slider(
        0.0,
        TOP_TEMPERATURE,
        value,
        step=0.05,
        label=label,
        info=info,
        elem_id=name,
        elem_classes="dial",
    )


def _number(label: str, info: str, name: str) -> gr.Number:
    return gr.Number(0, label=label, info=info, elem_id=name, elem_classes="dial")


def _share(label: str, info: str, low: float, value: float, name: str) -> gr.Slider:
    return gr.Slider(
        low, 1.0, value, step=0.01, label=label, info=info, elem_id=name, elem_classes="dial"
    )
