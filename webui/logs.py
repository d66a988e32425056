"""The program's log: lines for people, or an object a line. Ids and lengths, never words."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from bark_core import DiscreetFormatter
from webui.scheduler import Happening, Note

_log = logging.getLogger(__name__)
_UNUSUAL = {Happening.FAILED, Happening.RESTARTED, Happening.INTERRUPTED, Happening.ABANDONED}


class JsonFormatter(DiscreetFormatter):
    """A record as one line of JSON: time, level, logger, message, and what a job's note has."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": f"{_utc(record.created)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def set_up(log_format: str) -> None:
    """Write the log to standard error: warnings, or as JSON also what happens to jobs."""
    as_json = log_format == "json"
    formatter = (
        JsonFormatter() if as_json else DiscreetFormatter("%(asctime)s %(name)s: %(message)s")
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("webui", "bark_core"):
        logging.getLogger(name).setLevel(logging.INFO if as_json else logging.WARNING)


def log_note(note: Note) -> None:
    """A line for what happened to a job."""
    facts = {
        "job": note.job_id,
        "owner": note.owner,
        "model": note.model,
        "n_characters": note.n_characters,
        "waited_s": round(note.waited_s, 3),
        "ran_s": round(note.ran_s, 3),
        "audio_s": round(note.audio_s, 3),
    }
    if note.error:
        facts["error"] = note.error
    level = logging.WARNING if note.what in _UNUSUAL else logging.INFO
    _log.log(
        level,
        "job %s %s%s",
        note.job_id,
        note.what.value,
        f" ({note.error})" if note.error else "",
        extra={"facts": facts},
    )


def _utc(created: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
