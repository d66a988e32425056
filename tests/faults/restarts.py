"""A studio in a process of its own, which a test ends as it likes.

`python -m tests.faults.restarts FOLDER MODEL WHAT DRAIN_S` asks for jobs (WHAT is how many) or for
a script (WHAT is "script"), says which as soon as one of them runs or a segment of it is made, and
stays until it is ended.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from webui.environment import prepared_environment
from webui.hosting import Hosting
from webui.settings import StudioSettings

if TYPE_CHECKING:
    from bark_core import GenerationRequest
    from webui.studio import Studio

N_SEGMENTS = 12  # on a quick machine five were made before the page answered

# Gradio is imported within the prepared environment, as app.py does it: the rest is, too


def request(number: int) -> GenerationRequest:
    from bark_core import GenerationRequest
    from tests.test_jobs import LONG, SETTINGS

    return GenerationRequest(f"Number {number}. {LONG}", seed=number, settings=SETTINGS)


def begin_jobs(studio: Studio, n_jobs: int) -> None:
    """One runs, the others wait."""
    from webui.jobs import TicketState

    for number in range(n_jobs):
        studio.desk.submit(request(number), owner="ann", browser="one")
    tickets = list(studio.desk._tickets.values())
    while n_jobs and not any(ticket.state is TicketState.RUNNING for ticket in tickets):
        time.sleep(0.01)


def begin_script(studio: Studio) -> str:
    """One segment is made, the others are to be; returns the script's id."""
    from bark_core import parse_plain
    from tests.test_jobs import SETTINGS

    desk = studio.scripts
    script_id = desk.create("ann", settings=SETTINGS)
    text = "\n\n".join(f"Line {number}." for number in range(N_SEGMENTS))
    desk.set_script(script_id, "ann", parse_plain(text), "", source=text)
    desk.make(script_id, "ann")
    while not any(s.take for s in desk.open(script_id, "ann").project.segments):
        time.sleep(0.01)
    return script_id


def say(studio: Studio, **more: object) -> None:
    tickets = studio.desk._tickets.values()
    told = {ticket.id: [ticket.state.value, ticket.cut_off] for ticket in tickets}
    print(json.dumps({"tickets": told, **more}), flush=True)


def main(folder: Path, model: str, what: str, drain_s: float) -> None:
    settings = StudioSettings(
        model=model,
        data=folder,
        open_page=False,
        hosting=Hosting(drain_s=drain_s, max_batch=1),  # one runs, the others wait
    )
    with prepared_environment():
        from webui.blocks import build_page
        from webui.serving import serve
        from webui.studio import open_studio

        studio = open_studio(settings)
        page = build_page(studio)  # before there is anything to do, which would be done meanwhile
        script_id = ""
        if what == "script":
            script_id = begin_script(studio)
        else:
            begin_jobs(studio, int(what))
        say(studio, worker=studio.models.backend.workers()[0].name, script=script_id)
        serve(page, studio)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
