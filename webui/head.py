"""How the head of the page looks: pure functions from what there is to HTML."""

from __future__ import annotations

from webui.html import MARK, button, escaped, notice
from webui.jobs import DeskStatus
from webui.languages import LANGUAGES, _
from webui.models import ModelState, ModelStatus
from webui.words import explain


def brand() -> str:
    """The mark and the name."""
    return f"<h1>{MARK}<span>Bark Studio</span></h1>"


def masthead(status: DeskStatus) -> str:
    """Readiness of the page's model, the queue; below, what has to be said of the model."""
    waiting = status.n_waiting
    queue = _("{n} waiting", n=waiting) if waiting else _("nobody waiting")
    return (
        f'<p class="status {status.state}" role="status"><span class="dot"></span>'
        f'<span class="line">{escaped(status.line)}</span>'
        f'<span class="queue">{escaped(queue)}</span></p>{_note(status)}'
    )


def first_masthead(name: str) -> str:
    """The same while the page is built, for everybody: before anybody looks."""
    return masthead(DeskStatus(name, "loading", _("loading the model"), False, 0, None))


def _note(status: DeskStatus) -> str:
    if status.error is not None:
        action = button("system", status.name, _("Open System"))
        return f'<div class="note">{notice(explain(status.error))}{action}</div>'
    if not status.demonstration:
        return ""
    told = _("This is a demonstration: a small model with synthetic voices, to try everything.")
    action = button("system", "", _("Get real Bark"), about=_("shows which model fits"))
    return f'<p class="note honest"><span>{escaped(told)}</span> {action}</p>'


def choice_label(status: ModelStatus) -> str:
    """A model in the list of models: its title, and a word on its state."""
    title = status.title
    if status.state.busy:
        return _("{title}, on its way", title=title)
    if status.demonstration:
        return _("{title}, a demonstration", title=title)
    if status.loaded:
        return _("{title}, loaded", title=title)
    if status.installed:
        return _("{title}, on the disk", title=title)
    if status.state is ModelState.PARTIAL:
        return _("{title}, partly downloaded", title=title)
    return _("{title}, not downloaded", title=title)


def account() -> str:
    """Who is signed in, and the way out; account.js fills it in, and shows it then."""
    out = escaped(_("Sign out"))
    return (
        '<form id="account-form" method="post" action="logout" hidden><span class="name"></span>'
        f'<button type="submit" class="quiet">{out}</button></form>'
    )


def language_choice() -> str:
    """A list of languages, each by its own name; player.js remembers what is chosen."""
    options = "".join(
        f'<option value="{code}" lang="{code}">{escaped(name)}</option>'
        for code, name in LANGUAGES.items()
    )
    name = escaped(_("Language"))
    return f'<label><span>{name}</span><select aria-label="{name}">{options}</select></label>'
