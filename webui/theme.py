"""How it looks: the palette and type as a Gradio theme; assets/*.css do the rest."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils import sizes

from webui.languages import LANGUAGES, _, building, in_language

FOLDER = Path(__file__).parent
ASSETS = FOLDER / "assets"
ICON = ASSETS / "icon.svg"
# base first: the others build on it
STYLES = ("base", "generate", "script", "voices", "history", "system")
SCRIPTS = ("player", "account", "generate", "script", "voices", "history", "system")
# nothing is fetched: the system's own
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Cascadia Mono", "DejaVu Sans Mono", "monospace")

# light, dark
PALETTE = {
    "ground": ("#FBF9F6", "#151311"),
    "raised": ("#FFFFFF", "#1E1B18"),
    "line": ("#E6E0D8", "#38322B"),
    "ink": ("#1F1B16", "#EDE8E1"),
    "quiet": ("#6A6258", "#A79D90"),
    "accent": ("#A84A14", "#F0A36B"),
    "accent_hover": ("#8F3D0E", "#F6B689"),
    "on_accent": ("#FFFFFF", "#1F1206"),
    "good": ("#2F6B3A", "#7CC48A"),
    "warn": ("#8A5A00", "#E0B050"),
    "bad": ("#A3262A", "#F08A84"),
}

# theme variable: colour of the palette
_COLOURS = {
    "body_background_fill": "ground",
    "body_text_color": "ink",
    "body_text_color_subdued": "quiet",
    "background_fill_primary": "ground",
    "background_fill_secondary": "ground",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "block_background_fill": "ground",
    "block_border_color": "line",
    "block_info_text_color": "quiet",
    "block_label_background_fill": "ground",
    "block_label_text_color": "ink",
    "block_title_text_color": "ink",
    "panel_background_fill": "ground",
    "accordion_text_color": "ink",
    "checkbox_background_color": "raised",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "quiet",
    "checkbox_border_color_selected": "accent",
    "checkbox_border_color_focus": "accent",
    "checkbox_label_background_fill": "ground",
    "checkbox_label_text_color": "ink",
    "error_background_fill": "raised",
    "error_border_color": "bad",
    "error_text_color": "bad",
    "input_background_fill": "raised",
    "input_background_fill_focus": "raised",
    "input_border_color": "line",
    "input_border_color_focus": "accent",
    "input_border_color_hover": "quiet",
    "input_placeholder_color": "quiet",
    "loader_color": "accent",
    "slider_color": "accent",
    "link_text_color": "accent",
    "link_text_color_hover": "accent_hover",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent_hover",
    "button_primary_border_color": "accent",
    "button_primary_border_color_hover": "accent_hover",
    "button_primary_text_color": "on_accent",
    "button_primary_text_color_hover": "on_accent",
    "button_secondary_background_fill": "raised",
    "button_secondary_background_fill_hover": "ground",
    "button_secondary_border_color": "line",
    "button_secondary_border_color_hover": "quiet",
    "button_secondary_text_color": "ink",
    "button_secondary_text_color_hover": "ink",
}


def studio_theme() -> Base:
    """The theme: one accent, hairlines, 8 px corners, no shadows."""
    theme = Base(
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    colours = {}
    for variable, name in _COLOURS.items():
        colours[variable], colours[f"{variable}_dark"] = PALETTE[name]
    return theme.set(
        **colours,
        block_border_width="0px",
        block_padding="0px",
        block_shadow="none",
        block_radius="0px",
        block_label_border_width="0px",
        block_title_text_weight="600",
        block_title_text_size="14px",
        block_info_text_size="13px",
        input_radius="8px",
        input_shadow="none",
        input_shadow_focus="none",
        input_border_width="1px",
        button_large_radius="8px",
        button_border_width="1px",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        layout_gap="20px",
        form_gap_width="0px",
        panel_border_width="0px",
        checkbox_label_padding="8px 0",
        checkbox_label_border_width="0px",
        checkbox_label_shadow="none",
    )


def palette_css() -> str:
    """The palette as variables for the style sheets, so that it is written in one place only."""
    return f":root {{{_colours(0)}{_fonts()}}} .dark {{{_colours(1)}}}"


def signin_css() -> str:
    """The style of the page to sign in, which has no script to choose between light and dark."""
    dark = f"@media (prefers-color-scheme: dark) {{:root {{{_colours(1)}}}}}"
    return f":root {{{_colours(0)}{_fonts()}}} {dark} {''.join(_assets(('signin',), 'css'))}"


def _colours(column: int) -> str:
    names = {name: f"--studio-{name.replace('_', '-')}" for name in PALETTE}
    return "".join(f"{names[name]}: {pair[column]};" for name, pair in PALETTE.items())


def _fonts() -> str:
    def listed(fonts: tuple[str, ...]) -> str:
        return ", ".join(repr(name) if " " in name else name for name in fonts)

    return f"--studio-sans: {listed(SANS)};--studio-mono: {listed(MONO)};"


def page_css() -> str:
    """The palette and the style sheets, one of each tab."""
    return palette_css() + "".join(_assets(STYLES, "css"))


def page_head() -> str:
    """The page's own scripts, inline: nothing is fetched. In all languages at once."""
    with building():
        texts = json.dumps(_script_texts(), ensure_ascii=False)
    said = f"window.barkTexts = {texts};"
    scripts = f"<script>{said}</script>"
    scripts += "".join(f"<script>{script}</script>" for script in _assets(SCRIPTS, "js"))
    return (
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{scripts}'
    )


def page_heads() -> list[str]:
    """The same as each reader gets it: once for every language."""
    marked = json.dumps(page_head())
    return [json.loads(in_language(marked, code)) for code in LANGUAGES]


def _script_texts() -> dict[str, str]:
    """What the scripts say, by the names that they have for it."""
    return {
        "play": _("Play"),
        "pause": _("Pause"),
        "place": _("{at} of {total} seconds"),
        "sure": _("Press again to delete for good"),
        "surely": _("Press again to replace it"),
        "unheard": _("This can’t be heard right now. Try again in a moment."),
        "unreachable": _("The studio can’t be reached. Look whether its program still runs."),
        "compare": _("Compare"),
        "comparing": _("Comparing"),
        "compareHint": _("Arrow keys switch between them at the same place."),
        "compareMore": _("Choose another one to compare with."),
        "clear": _("Done comparing"),
    }


def _assets(names: tuple[str, ...], suffix: str) -> list[str]:
    paths = (ASSETS / f"{name}.{suffix}" for name in names)
    return [path.read_text(encoding="utf-8") for path in paths if path.exists()]
