"""Bark Studio: parse, load, build, launch. `python app.py --help` tells what can be chosen."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the studio's page and stay until somebody ends it."""
    from webui.settings import parse_arguments

    settings = parse_arguments(sys.argv[1:] if arguments is None else arguments, os.environ)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")

    from bark_core import BarkError
    from webui.blocks import build_page
    from webui.serving import prepared_environment, serve
    from webui.studio import open_studio

    with prepared_environment():
        try:
            studio = open_studio(settings)
            serve(build_page(studio), studio)
        except BarkError as error:
            print(f"Bark Studio can't start: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
