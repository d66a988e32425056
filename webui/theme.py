"""How it looks: the palette and type as a Gradio theme; style.css does the rest."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils import sizes

FOLDER = Path(__file__).parent
STYLE = FOLDER / "style.css"
ICON = FOLDER / "icon.svg"
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
    """The palette as variables for style.css, so that it is written in one place only."""
    names = {name: f"--studio-{name.replace('_', '-')}" for name in PALETTE}
    light = "".join(f"{names[name]}: {pair[0]};" for name, pair in PALETTE.items())
    dark = "".join(f"{names[name]}: {pair[1]};" for name, pair in PALETTE.items())
    fonts = f"--studio-mono: {', '.join(repr(name) if ' ' in name else name for name in MONO)};"
    return f":root {{{light}{fonts}}} .dark {{{dark}}}"


def page_css() -> str:
    """The palette and style.css."""
    return palette_css() + STYLE.read_text(encoding="utf-8")


def page_head() -> str:
    """The page's own script, inline: nothing is fetched."""
    script = (FOLDER / "studio.js").read_text(encoding="utf-8")
    return (
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<script>{script}</script>"
    )
