"""Bark Studio: parse, load, build, launch. `python app.py --help` tells what can be chosen.

`python app.py accounts --help` tells how people get accounts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the studio's page and stay until somebody ends it, or look after its accounts."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["accounts"]:
        from webui.accounts_cli import main as accounts

        return accounts(given[1:])
    from webui.settings import parse_arguments

    settings = parse_arguments(given, os.environ)

    from bark_core import BarkError
    from webui.environment import prepared_environment

    with prepared_environment():
        # only now: Gradio looks for its temporary folder when it is imported
        from webui import logs
        from webui.blocks import build_page
        from webui.serving import serve
        from webui.studio import open_studio

        logs.set_up(settings.hosting.log_format)
        try:
            studio = open_studio(settings)
            try:
                demo = build_page(studio)
            except BaseException:
                studio.close()
                raise
            serve(demo, studio)
        except BarkError as error:
            print(f"Bark Studio can't start: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
