"""How the System tab looks: pure functions from what there is to HTML."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bark_core import (
    BarkError,
    DeviceInfo,
    Fit,
    Reason,
    Recommendation,
    Verdict,
    WorkerState,
    WorkerStatus,
)
from webui.html import button, escaped, notice
from webui.jobs import TicketState, View
from webui.languages import N_, _, count
from webui.models import ModelState, ModelStatus
from webui.preferences import OFFLOAD
from webui.settings import CUDA_ONLY, PRECISIONS
from webui.words import about, explain, quote

WORKER_STATES = {
    WorkerState.STARTING: N_("is starting"),
    WorkerState.READY: N_("is ready"),
    WorkerState.RESTARTING: N_("is being restarted"),
    WorkerState.FAILED: N_("stopped, and could not be restarted"),
    WorkerState.NONE: N_("none, as no model is loaded"),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A model, and how it would run here."""

    status: ModelStatus
    fit: Fit | None
    problem: BarkError | None  # why there is no fit: the choice makes no sense here
    computing_s: float | None  # for a second of sound, as far as it was measured
    managed: bool = True  # whoever looks may download, load and remove it


@dataclass(frozen=True, slots=True)
class Machine:
    """What the tab tells of the computer and of the studio."""

    devices: Sequence[DeviceInfo]
    in_use: Sequence[str]  # the devices of the page's model; none while it isn't loaded
    program_bytes: int | None  # memory of this program
    workers: Sequence[WorkerStatus]  # what runs the models
    disks: Mapping[str, tuple[str, int | None, int | None]]  # what -> folder, used, free
    versions: Mapping[str, str]


# --- the models


def models(
    shown: Sequence[Shown], recommended: Recommendation | None, *, current: str, marked: str
) -> str:
    """A card for each model, and above them which one to take."""
    cards = "".join(
        _card(model, current=current, marked=model.status.name == marked, recommended=recommended)
        for model in shown
    )
    told = ""
    if not all(model.managed for model in shown):
        told = _("An administrator downloads, loads and removes models; you can use what is here.")
        told = f'<p class="about">{escaped(told)}</p>'
    return f'{_advice(shown, recommended)}{told}<div class="models">{cards}</div>'


def pulse(shown: Sequence[Shown], *, marked: str) -> str:
    """What changes every second, as JSON for system.js: lines and bars of each card."""
    told = {
        model.status.name: {
            "line": _progress_line(model.status),
            "share": _share(model.status),
            "fit": _fit_line(model),
            "good": _is_good(model),
        }
        for model in shown
    }
    return json.dumps({"models": told, "marked": marked})


def _advice(shown: Sequence[Shown], recommended: Recommendation | None) -> str:
    if recommended is None:
        return ""
    name = recommended.fit.model
    title = next((model.status.title for model in shown if model.status.name == name), name)
    best = escaped(_("For this computer: {title}.", title=title))
    return f'<p class="advice"><b>{best}</b> {escaped(_reason(recommended.reason))}</p>'


def _reason(reason: Reason) -> str:
    match reason:
        case Reason.ONLY:
            return _("There is no other model yet.")
        case Reason.BEST:
            return _("It sounds best of all, and it fits the memory of your GPU.")
        case Reason.BEST_WITH_OFFLOAD:
            return _("It sounds best of all, and fits your GPU one stage at a time.")
        case Reason.NO_GPU:
            return _("There is no GPU here, and a larger model would be slow without one.")
        case Reason.MEMORY:
            return _("A larger model needs more memory than is free.")
        case Reason.DISK:
            return _("A larger model needs more room on the disk than is free.")
    return _("Real Bark needs more memory or disk than is free; this one is to try things.")


def _card(shown: Shown, *, current: str, marked: bool, recommended: Recommendation | None) -> str:
    status = shown.status
    badge = ""
    if recommended is not None and recommended.fit.model == status.name:
        badge = f'<span class="badge">{escaped(_("recommended"))}</span>'
    if status.name == current:
        badge += f'<span class="badge">{escaped(_("this page works with it"))}</span>'
    problem = "" if status.error is None else notice(explain(status.error))
    return (
        f'<article class="model{" marked" if marked else ""}" data-model="{escaped(status.name)}" '
        f'tabindex="-1"><header><h2>{escaped(status.title)}</h2>{badge}'
        f'<span class="state {status.state}">{escaped(_state(status))}</span></header>'
        f'<p class="about">{escaped(_described(status))}</p>{_facts(shown)}{problem}'
        f"{_progress(status)}{_choices(shown) if shown.managed else ''}"
        f"<footer>{_actions(shown, current=current)}</footer></article>"
    )


def _described(status: ModelStatus) -> str:
    match status.name:
        case "pup":
            return _("A miniature to try everything with, made for this studio.")
        case "small":
            return _("Suno's smaller Bark: 13 languages, laughter, music; runs on most machines.")
        case "large":
            return _("Suno's full Bark: the best sound, and slow without a GPU.")
    return status.description or _("A model of your own choice.")


def _state(status: ModelStatus) -> str:
    match status.state:
        case ModelState.ABSENT:
            return _("not here")
        case ModelState.PARTIAL:
            return _("paused, partly here")
        case ModelState.DOWNLOADING:
            return _("downloading")
        case ModelState.CHECKING:
            return _("checking what came")
        case ModelState.CONVERTING:
            return _("converting")
        case ModelState.HERE:
            return _("on the disk")
        case ModelState.LOADING:
            return _("loading")
        case ModelState.LOADED:
            return _("loaded")
        case ModelState.UNLOADING:
            return _("unloading")
        case ModelState.REMOVING:
            return _("being removed")
    return _("failed")


def _facts(shown: Shown) -> str:
    """Source, sizes, place and speed, as far as there is something to say."""
    status, here = shown.status, shown.status.stored
    rows = [(_("From"), _("comes with the studio") if _bundled(status) else status.source)]
    if here.total_bytes and not status.installed:
        rows.append((_("Download"), size(here.total_bytes)))
    if here.disk_bytes:
        rows.append((_("On the disk"), size(here.disk_bytes)))
    if status.loaded:
        places = ", ".join(map(_device, dict.fromkeys(status.devices)))
        place = _("{device} in {precision}", device=places, precision=_exact(status))
        rows.append((_("Runs on"), place))
    if shown.computing_s is not None:
        speed = _("about {n} s for a second of sound, as measured", n=f"{shown.computing_s:.1f}")
        rows.append((_("Speed"), speed))
    facts = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in rows)
    # system.js writes what changes every second: the card stays, with what is open in it
    fit = "" if status.loaded else f"<dt>{escaped(_('Memory'))}</dt><dd data-fit></dd>"
    return f"<dl>{facts}{fit}</dl>"


def _bundled(status: ModelStatus) -> bool:
    return status.source == "bundled"


def _device(device: str) -> str:
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(device, device.replace("cuda", "GPU"))


def _exact(status: ModelStatus) -> str:
    return (
        _("{precision}, offloaded", precision=status.precision)
        if status.offloaded
        else str(status.precision)
    )


def _is_good(shown: Shown) -> bool:
    return shown.fit is not None and shown.fit.verdict.good


def _fit_line(shown: Shown) -> str:
    """Whether it fits, with figures."""
    fit = shown.fit
    if fit is None:
        return str(shown.problem) if shown.problem else _("known once it is here")
    needed, there = _gb(fit.needed_bytes), _gb(fit.available_bytes or 0)
    match fit.verdict:
        case Verdict.FITS:
            return _("fits: needs {needed}, has {there} GB", needed=needed, there=there)
        case Verdict.FITS_WITH_OFFLOAD:
            return _(
                "fits with offload, a little slower: needs {needed}, has {there} GB",
                needed=needed,
                there=there,
            )
        case Verdict.TOO_LITTLE_DISK:
            return _(
                "too little disk: needs {needed}, has {there} GB; free some space first",
                needed=_gb(fit.disk_needed_bytes),
                there=_gb(fit.disk_free_bytes or 0),
            )
        case Verdict.UNKNOWN:
            return _("needs {needed} GB; how much is free isn't known", needed=needed)
    if fit.lighter is not None:
        return _(
            "too little: needs {needed}, has {there} GB; in {precision} it would fit",
            needed=needed,
            there=there,
            precision=fit.lighter,
        )
    return _(
        "too little: needs {needed}, has {there} GB; close other programs or unload a model",
        needed=needed,
        there=there,
    )


def _progress(status: ModelStatus) -> str:
    if not status.state.busy:
        return ""
    label = escaped(_("Progress of {title}", title=status.title))
    return (
        f'<div class="getting"><div class="bar endless" role="progressbar" aria-label="{label}" '
        'aria-valuemin="0" aria-valuemax="100"><i></i></div>'
        '<p class="about" data-line></p></div>'
    )


def _share(status: ModelStatus) -> float | None:
    if status.transfer is None or not status.transfer.total_bytes:
        return None
    return min(1.0, status.transfer.done_bytes / status.transfer.total_bytes)


def _progress_line(status: ModelStatus) -> str:
    """ "563 MB of 1.7 GB, 11.2 MB a second, about 2 min left"."""
    transfer = status.transfer
    if transfer is None or not transfer.total_bytes:
        return _("a moment, please") if status.state.busy else ""
    done, total = size(transfer.done_bytes), size(transfer.total_bytes)
    parts = [_("{done} of {total}", done=done, total=total)]
    if status.state is ModelState.DOWNLOADING and transfer.bytes_per_s:
        parts.append(_("{speed} a second", speed=size(round(transfer.bytes_per_s))))
    if transfer.left_s is not None and status.state is not ModelState.CONVERTING:
        parts.append(_("{time} left", time=about(transfer.left_s)))
    return ", ".join(parts)


def _choices(shown: Shown) -> str:
    """Precision and offload; system.js hands what is chosen to the button that loads."""
    status = shown.status
    if not status.installed or status.state.busy:
        return ""
    on_cuda = shown.fit is None or shown.fit.device.kind == "cuda"
    precision = _select(
        "precision",
        _("Precision"),
        {name: _precision(name) for name in PRECISIONS},
        status.choice.precision,
        off=() if on_cuda else CUDA_ONLY,
    )
    words = {"auto": _("automatic"), "on": _("on"), "off": _("off")}
    offload = _select(
        "offload",
        _("Offload"),
        {name: words[name] for name in OFFLOAD},
        status.choice.offload,
        off=() if on_cuda else tuple(OFFLOAD),
    )
    told = _(
        "Half the precision takes half the memory; int8 is the quickest on a CPU; kv8 halves what "
        "a GPU remembers of each job. Offload keeps one stage on the GPU."
    )
    return f'<div class="choices">{precision}{offload}<p class="about">{escaped(told)}</p></div>'


def _precision(name: str) -> str:
    if name == "auto":
        return _("automatic")
    return _("{precision} (GPU)", precision=name) if name in CUDA_ONLY else name


def _select(
    kind: str, label: str, options: Mapping[str, str], chosen: str, *, off: Collection[str] = ()
) -> str:
    """Args: off: options that can't be chosen here."""
    inner = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}'
        f"{' disabled' if value in off else ''}>{escaped(text)}</option>"
        for value, text in options.items()
    )
    disabled = " disabled" if set(options) <= set(off) else ""
    return (
        f'<label>{escaped(label)} <select data-choice="{kind}"{disabled}>{inner}</select></label>'
    )


def _actions(shown: Shown, *, current: str) -> str:
    """What can be done with a model now, the likeliest first."""
    status = shown.status
    name, title = status.name, status.title
    if status.state in (ModelState.UNLOADING, ModelState.REMOVING):
        return ""
    if not shown.managed:
        if not status.installed or name == current:
            return ""
        return button("model-use", name, _("Work with it"), about=title, quiet=False)
    if status.state.busy:
        return button("model-cancel", name, _("Stop"), about=title)
    found = []
    if status.loaded:
        if name != current:
            found.append(button("model-use", name, _("Work with it"), about=title, quiet=False))
        found.append(button("model-load", load_target(status), _("Load anew"), about=title))
        found.append(_unload(status))
    elif status.installed:
        found.append(_load(shown))
    else:
        found += _get(status)
    if status.installed and not status.default_next:
        found.append(button("model-first", name, _("Begin with it"), about=title))
    elif status.installed and status.default_next and not status.default:
        found.append(f'<span class="about">{escaped(_("the next start begins with it"))}</span>')
    if status.removable and not status.loaded:
        found.append(_remove(status))
    return "".join(found)


def load_target(status: ModelStatus) -> str:
    """What the button that loads says: model, precision, offload."""
    return json.dumps([status.name, status.choice.precision, status.choice.offload])


def _load(shown: Shown) -> str:
    status = shown.status
    fits = shown.fit is None or shown.fit.verdict.good
    if fits:
        return button("model-load", load_target(status), _("Load"), about=status.title, quiet=False)
    return button(
        "model-load-despite", load_target(status), _("Load all the same"), about=status.title
    )


def _get(status: ModelStatus) -> list[str]:
    name, title, here = status.name, status.title, status.stored
    left = max(0, here.total_bytes - here.done_bytes)
    if here.done_bytes:
        text = _("Resume, {size} to come", size=size(left))
    elif left:
        text = _("Download {size}", size=size(left))
    else:
        text = _("Download")
    found = [button("model-download", name, text, about=title, quiet=False)]
    if status.added:
        found.append(button("model-forget", name, _("Take off this list"), about=title))
    return found


def _unload(status: ModelStatus) -> str:
    name, title = status.name, status.title
    if not status.n_unfinished:
        return button("model-unload", name, _("Unload"), about=title)
    jobs = count(
        status.n_unfinished,
        "{n} job is unfinished and would be stopped; what it made is kept.",
        "{n} jobs are unfinished and would be stopped; what they made is kept.",
    )
    stop = button("model-unload-now", name, _("Stop and unload"), about=title)
    return _confirm(_("Unload …"), jobs, stop)


def _remove(status: ModelStatus) -> str:
    freed = size(status.stored.disk_bytes)
    told = _("This deletes {size} from the disk. It can be downloaded again.", size=freed)
    really = button("model-remove", status.name, _("Remove from the disk"), about=status.title)
    return _confirm(_("Remove …"), told, really)


def _confirm(title: str, told: str, action: str) -> str:
    return (
        f'<details class="confirm"><summary>{escaped(title)}</summary>'
        f"<div><p>{escaped(told)}</p>{action}</div></details>"
    )


# --- the queue and the machine


def queue(own: Sequence[View], n_others: int, titles: Mapping[str, str]) -> str:
    """What runs and waits: one's own with its words, of others only how many."""
    heading = f"<h2>{escaped(_('Queue'))}</h2>"
    if not own and not n_others:
        return f'{heading}<p class="about">{escaped(_("Nothing runs, and nobody waits."))}</p>'
    rows = "".join(
        f"<li><span>{escaped(quote(view.text, 60))}</span>"
        f'<span class="about">{escaped(_queued(view, titles))}</span></li>'
        for view in own
    )
    if n_others:
        others = count(n_others, "{n} job of somebody else", "{n} jobs of others")
        rows += f'<li><span class="about">{escaped(others)}</span></li>'
    return f"{heading}<ul>{rows}</ul>"


def yours(used: int, quota: int | None, keep_days: float | None) -> str:
    """What somebody keeps here, for how long, and what is noted of what they do."""
    kept = _("You keep {size} here.", size=size(used))
    if quota is not None:
        kept = _("You keep {size} of the {most} that you may.", size=size(used), most=size(quota))
    goes = ""
    if keep_days is not None:
        goes = _(
            "What is older than {n} days goes for good, but for favourites.", n=f"{keep_days:g}"
        )
    noted = _("The studio notes who signs in and what is made when, by its hash: never your words.")
    lines = "".join(f'<p class="about">{escaped(line)}</p>' for line in (kept, goes, noted) if line)
    return f"<h2>{escaped(_('Your things'))}</h2>{lines}"


def _queued(view: View, titles: Mapping[str, str]) -> str:
    title = titles.get(view.model, view.model)
    match view.state:
        case TicketState.RUNNING:
            return _("runs on {title}", title=title)
        case TicketState.LOADING:
            return _("waits for {title}, which is loading", title=title)
    if view.position:
        ahead = count(view.position, "{n} job goes first", "{n} jobs go first")
        if view.wait_s is not None and view.wait_s >= 1:
            ahead += ", " + _("{time} until it begins", time=about(view.wait_s))
        return f"{title}, {ahead}"
    return _("is next on {title}", title=title)


def machine(what: Machine) -> str:
    """Devices and their memory, folders and their disk, versions."""
    rows = [_device_row(info, used=info.device in what.in_use) for info in what.devices]
    if what.program_bytes is not None:
        rows.append((_("This program"), _("takes {size}", size=size(what.program_bytes))))
    rows += [(_worker_label(worker), _worker(worker)) for worker in what.workers]
    for name, (folder, used, free) in what.disks.items():
        parts = [_("{size} used", size=size(used))] if used is not None else []
        if free is not None:
            parts.append(_("{size} free", size=size(free)))
        rows.append((name, f"{folder}: {', '.join(parts)}" if parts else folder))
    versions = ", ".join(f"{name} {version}" for name, version in what.versions.items())
    rows.append((_("Versions"), versions))
    facts = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in rows)
    return f"<h2>{escaped(_('This computer'))}</h2><dl>{facts}</dl>"


def _worker_label(worker: WorkerStatus) -> str:
    if not worker.device:
        return _("Worker")
    return _("Worker on {device}", device=_device(worker.device))


def _worker(worker: WorkerStatus) -> str:
    """What the process that runs the models does, and what it takes."""
    parts = [_(WORKER_STATES[worker.state])]
    if worker.state is WorkerState.FAILED and worker.problem:
        parts[0] += f" ({worker.problem})"
    if worker.n_running:
        parts.append(count(worker.n_running, "{n} job runs", "{n} jobs run"))
    if worker.memory_bytes:
        parts.append(_("takes {size}", size=size(worker.memory_bytes)))
    if worker.device_bytes:
        parts.append(_("{size} on its device", size=size(worker.device_bytes)))
    if worker.n_restarts:
        parts.append(count(worker.n_restarts, "restarted {n} time", "restarted {n} times"))
    return ", ".join(parts)


def _device_row(info: DeviceInfo, *, used: bool) -> tuple[str, str]:
    label = _device(info.device)
    if used:
        label = _("{device}, in use", device=label)
    if info.total_bytes is None or info.free_bytes is None:
        return label, info.name
    memory = _("{free} of {total} free", free=size(info.free_bytes), total=size(info.total_bytes))
    return label, f"{info.name}: {memory}"


# --- figures


def size(n_bytes: int) -> str:
    """ "1.7 GB", "563 MB", "12 KB"."""
    if n_bytes >= 0.95e9:
        return _("{n} GB", n=f"{n_bytes / 1e9:.1f}")
    if n_bytes >= 0.95e6:
        return _("{n} MB", n=f"{n_bytes / 1e6:.0f}")
    return _("{n} KB", n=f"{n_bytes / 1e3:.0f}")


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f}"
