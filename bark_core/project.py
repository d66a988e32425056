"""A script on its way to sound: its segments, the takes of each, who is heard.

A `Project` is a value: every change gives a new one, and none of them touches a file.
project_parts.py has what it is made of, project_plan.py makes segments of lines,
project_folder.py keeps it on the disk, mix.py makes one sound of it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from bark_core.errors import BarkError, InvalidRequest, InvalidSetting, InvalidText
from bark_core.generation import settings_from_metadata
from bark_core.project_parts import (
    BACKGROUND_ID,
    Order,
    ProjectOptions,
    ProjectSegment,
    Take,
    new_name,
)
from bark_core.project_plan import Planner, number_segments, plan_line, plan_script
from bark_core.request import GenerationRequest
from bark_core.script import (
    LINE_PAUSE_S,
    Background,
    Line,
    LineSettings,
    Script,
    check_label,
    from_json,
    shown,
    to_json,
)

if TYPE_CHECKING:
    from bark_core.voices import Voice

FORMAT = "bark-studio-project"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A script as segments with takes. Made by `Project.make`; every change gives a new one.

    Attributes:
        model, layout_name: what the segments are planned for.
        voices: speaker to name of a voice; None rolls one.
        rolled: speaker to the id of the take that rolled its voice, kept from then on.
        bed: the sound of the background.

    Raises:
        InvalidText: more than 100,000 characters to say.
    """

    BACKGROUND: ClassVar[str] = BACKGROUND_ID

    model: str
    layout_name: str
    segments: tuple[ProjectSegment, ...] = ()
    voices: Mapping[str, str | None] = field(default_factory=dict)
    title: str = ""
    options: ProjectOptions = field(default_factory=ProjectOptions)
    background: Background | None = None
    bed: Take | None = None
    rolled: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({segment.id for segment in self.segments}) != len(self.segments):
            raise InvalidSetting("two segments of the project have the same id")
        object.__setattr__(self, "segments", number_segments(self.segments))
        object.__setattr__(self, "rolled", MappingProxyType(dict(self.rolled)))
        script = self.script
        object.__setattr__(self, "voices", script.voices)
        object.__setattr__(self, "title", script.title)

    @classmethod
    def make(
        cls, script: Script, planner: Planner, options: ProjectOptions | None = None
    ) -> Project:
        """A project of which no segment has sound yet.

        Raises:
            InvalidText: a line can't be planned; the message names it.
        """
        return cls(
            model=planner.model,
            layout_name=planner.layout_name,
            segments=plan_script(script, planner),
            voices=script.voices,
            title=script.title,
            options=options or ProjectOptions(),
            background=script.background,
            notes=script.notes,
        )

    # --- looking

    @property
    def script(self) -> Script:
        """The script as it stands now, one line a segment."""
        return Script(
            tuple(segment.line for segment in self.segments),
            dict(self.voices),
            self.title,
            self.background,
            self.notes,
        )

    def to_script(self) -> Script:
        """The script for a file: pauses that follow the project's own usual one are written."""
        script = self.script
        if self.options.line_pause_s == LINE_PAUSE_S:
            return script
        paused = [
            replace(line, pause_after_s=self.pause_after_s(index))
            for index, line in enumerate(script.lines)
        ]
        return replace(script, lines=tuple(paused))

    def index(self, segment_id: str) -> int:
        """Where a segment stands. Raises InvalidRequest: there is none of that id."""
        for index, segment in enumerate(self.segments):
            if segment.id == segment_id:
                return index
        raise InvalidRequest(
            f"the script has no segment {segment_id[:40]!r} any more; choose one of the table"
        )

    def segment(self, segment_id: str) -> ProjectSegment:
        return self.segments[self.index(segment_id)]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everyone who says something, in the order of their first words."""
        return tuple(dict.fromkeys(segment.line.speaker for segment in self.segments))

    def pause_after_s(self, index: int) -> float:
        """Silence after a segment; after the last one only what it asks for itself."""
        own = self.segments[index].line.pause_after_s
        if own is not None:
            return own
        return 0.0 if index == len(self.segments) - 1 else self.options.line_pause_s

    @property
    def lead_in_s(self) -> float:
        """Silence before the first segment."""
        return (self.segments[0].line.pause_before_s or 0.0) if self.segments else 0.0

    @property
    def to_make(self) -> tuple[str, ...]:
        """Ids of the segments that need sound and aren't locked, BACKGROUND_ID where it does."""
        needed = [s.id for s in self.segments if s.take is None and not s.line.locked]
        is_prompt = self.background is not None and self.background.prompt is not None
        if is_prompt and self.layer is None:
            needed.append(BACKGROUND_ID)
        return tuple(needed)

    @property
    def layer(self) -> Take | None:
        """The sound that lies under the speech; None: there is none, or it isn't made yet."""
        if self.background is None or self.bed is None:
            return None
        return self.bed if self.bed.recipe == self._bed_recipe() else None

    @property
    def mix_key(self) -> str:
        """The same for two states of the project whose mixes sound the same."""
        heard = [
            (segment.chosen, segment.line.speaker, self.pause_after_s(index))
            for index, segment in enumerate(self.segments)
            if segment.take is not None
        ]
        how = None if self.background is None else asdict(self.background)
        bed = None if self.layer is None else self.layer.id
        content = json.dumps([heard, self.lead_in_s, how, bed])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def files(self) -> frozenset[str]:
        """Ids of all takes that the project still needs."""
        ids = {take.id for segment in self.segments for take in segment.takes}
        return frozenset(ids | set(self.rolled.values()) | ({self.bed.id} if self.bed else set()))

    def voice_of(self, segment: ProjectSegment) -> str | None:
        """Name of the voice that says a segment; None: a rolled one."""
        return self.script.voice_of(segment.line)

    # --- changing words and who says them

    def with_script(self, script: Script, planner: Planner) -> Project:
        """The project after its whole text was changed: what is still there keeps its takes.

        What plain text doesn't hold stays: the title, voices of speakers, the background.
        """
        before = {segment.id: segment for segment in self.segments}
        planned = plan_script(script, planner)
        keys = [_words_of(segment) for segment in self.segments], [_words_of(s) for s in planned]
        matcher = difflib.SequenceMatcher(None, *keys, autojunk=False)
        segments = list(planned)
        for old, new, size in matcher.get_matching_blocks():
            for step in range(size):
                kept = before[self.segments[old + step].id]
                line = replace(planned[new + step].line, locked=kept.line.locked)
                segments[new + step] = replace(
                    kept, line=line, n_tokens=planned[new + step].n_tokens
                )
        same_layout = planner.layout_name == self.layout_name
        voices = {
            name: voice if voice is not None else self.voices.get(name)
            for name, voice in script.voices.items()
        }
        changed = replace(
            self,
            model=planner.model,
            layout_name=planner.layout_name,
            segments=tuple(segments),
            voices=voices,
            title=script.title or self.title,
            background=script.background or self.background,
            notes=script.notes,
            rolled=self.rolled if same_layout else {},
        )
        return changed._rechosen()

    def with_words(self, segment_id: str, text: str, planner: Planner) -> Project:
        """Let a segment say something else; where that is too long for one, it becomes several.

        Raises:
            InvalidText: no words, or too many.
            InvalidRequest: the segment is locked; so it is for all that changes its sound.
        """
        segment = self._open(segment_id)
        line = replace(segment.line, text=text)
        if line == segment.line:
            return self
        first, *others = plan_line(line, planner, self.voice_of(segment))
        changed = replace(segment, line=first.line, n_tokens=first.n_tokens)
        return self._replaced(segment_id, [changed, *others])._rechosen({segment_id})

    def with_speaker(self, segment_id: str, speaker: str) -> Project:
        segment = self._open(segment_id)
        return self._with_line(segment_id, replace(segment.line, speaker=speaker))

    def with_voice(self, segment_id: str, voice: str | None) -> Project:
        """Give one segment a voice of its own; None takes that of its speaker again."""
        segment = self._open(segment_id)
        return self._with_line(segment_id, replace(segment.line, voice=voice or None))

    def with_settings(self, segment_id: str, settings: LineSettings) -> Project:
        segment = self._open(segment_id)
        return self._with_line(segment_id, replace(segment.line, settings=settings))

    def with_pause(self, segment_id: str, pause_s: float | None) -> Project:
        """The silence after a segment, 0..60 s; None is the project's usual one."""
        segment = self.segment(segment_id)
        line = replace(segment.line, pause_after_s=pause_s)
        return self._replaced(segment_id, [replace(segment, line=line)])

    def with_speaker_voice(self, speaker: str, voice: str | None) -> Project:
        """Give a speaker a voice; None rolls one, and keeps it from the first take on."""
        name = check_label("voice", voice) if voice else None
        voices = {**self.voices, check_label("speaker", speaker): name}
        return replace(self, voices=voices)._rechosen()

    def with_new_roll(self, speaker: str) -> Project:
        """Forget the voice that was rolled for a speaker, so that another one will be."""
        rolled = {name: take for name, take in self.rolled.items() if name != speaker}
        return replace(self, rolled=rolled)._rechosen()

    def without_speaker(self, speaker: str, planner: Planner) -> Project:
        """Undo a wrong guess: the name goes back into the words, said by who spoke before."""
        segments: list[ProjectSegment] = []
        inside = False
        for segment in self.segments:
            line = segment.line
            if line.speaker != speaker or not speaker:
                segments.append(segment)
                inside = False
                continue
            before = segments[-1].line.speaker if segments else ""
            text = line.text if inside else f"{speaker}: {line.text}"
            inside = True
            segments += plan_line(replace(line, speaker=before, text=text), planner, None)
        voices = {name: voice for name, voice in self.voices.items() if name != speaker}
        return replace(self, segments=tuple(segments), voices=voices)._rechosen()

    # --- changing their order

    def moved(self, segment_id: str, steps: int) -> Project:
        """Move a segment down by so many places, or up where `steps` is negative."""
        index = self.index(segment_id)
        others = [segment for segment in self.segments if segment.id != segment_id]
        others.insert(min(max(index + steps, 0), len(others)), self.segments[index])
        return replace(self, segments=tuple(others))

    def inserted(
        self, after_id: str | None, text: str, planner: Planner, *, speaker: str = ""
    ) -> tuple[Project, str]:
        """Put words after a segment, or before all of them; also gives the new segment's id."""
        place = 0 if after_id is None else self.index(after_id) + 1
        parts = plan_line(Line(speaker, text), planner, self.voices.get(speaker))
        segments = [*self.segments[:place], *parts, *self.segments[place:]]
        return replace(self, segments=tuple(segments)), parts[0].id

    def deleted(self, segment_id: str) -> Project:
        self.index(segment_id)
        kept = tuple(segment for segment in self.segments if segment.id != segment_id)
        return replace(self, segments=kept)

    def locked(self, segment_id: str, locked: bool) -> Project:
        """A locked segment isn't made again, whatever changes around it."""
        segment = self.segment(segment_id)
        line = replace(segment.line, locked=locked)
        return self._replaced(segment_id, [replace(segment, line=line)])._rechosen({segment_id})

    # --- takes

    def order(
        self,
        segment_id: str,
        voice_named: Callable[[str], Voice],
        voice_of_take: Callable[[str], Voice],
    ) -> Order:
        """What to ask a model for, so that a segment (or BACKGROUND_ID) gets another take.

        Args:
            voice_named: gives a voice by its name, voice_of_take by the take that rolled it.

        Raises:
            VoiceError, DownloadError: a voice can't be had.
            InvalidRequest: there is no such segment, or it is locked.
        """
        take_id = new_name()
        if segment_id == BACKGROUND_ID:
            return self._order_bed(take_id)
        segment = self._open(segment_id)
        line = segment.line
        name, rolled = self.voice_of(segment), self.rolled.get(line.speaker)
        voice = voice_named(name) if name else voice_of_take(rolled) if rolled else None
        request = GenerationRequest(
            line.text,
            voice,
            seed=self._seed(segment),
            settings=line.settings.apply(self.options.settings),
            retries=self.options.retries,
            take=segment.next_take,
        )
        return Order(segment_id, take_id, self._recipe(segment, take_id), request)

    def with_take(self, segment_id: str, take: Take, next_take: int) -> Project:
        """Keep a take; it is heard from now on, unless its segment was changed meanwhile."""
        if segment_id == BACKGROUND_ID:
            return replace(self, bed=take)
        segment = self.segment(segment_id)
        rolled = dict(self.rolled)
        if self.voice_of(segment) is None and take.voice_sha256 is None:
            rolled.setdefault(segment.line.speaker, take.id)
        kept = replace(segment, takes=(*segment.takes, take), next_take=next_take)
        changed = replace(self._replaced(segment_id, [kept]), rolled=rolled)
        fits = take.recipe == changed._recipe(kept)
        if not fits or segment.line.locked:
            return changed
        return changed._replaced(segment_id, [replace(kept, chosen=take.id)])

    def with_chosen(self, segment_id: str, take_id: str) -> Project:
        """Hear another take.

        Raises:
            InvalidRequest: the segment has no such take.
        """
        segment = self.segment(segment_id)
        if take_id not in {take.id for take in segment.takes}:
            raise InvalidRequest("that take was deleted meanwhile; choose another one")
        return self._replaced(segment_id, [replace(segment, chosen=take_id)])

    def without_take(self, segment_id: str, take_id: str) -> Project:
        """Delete a take; where it was heard, the newest other one that fits is."""
        segment = self.segment(segment_id)
        kept = tuple(take for take in segment.takes if take.id != take_id)
        chosen = None if segment.chosen == take_id else segment.chosen
        changed = self._replaced(segment_id, [replace(segment, takes=kept, chosen=chosen)])
        return changed._rechosen({segment_id}) if chosen is None else changed

    def with_background(self, background: Background | None, bed: Take | None = None) -> Project:
        """Put a layer under the speech; `bed` is the sound of a file, a prompt's is made."""
        return replace(self, background=background, bed=bed or self.bed)

    def with_takes_of(self, other: Project) -> Project:
        """This project, with the takes that its segments have in another one added.

        So that going back to an earlier state loses no sound that was made since.
        """
        made = {segment.id: segment for segment in other.segments}
        segments = []
        for segment in self.segments:
            newer = made.get(segment.id, segment)
            known = {take.id for take in segment.takes}
            added = tuple(take for take in newer.takes if take.id not in known)
            next_take = max(segment.next_take, newer.next_take)
            takes = (*segment.takes, *added)
            segments.append(replace(segment, takes=takes, next_take=next_take))
        rolled = {**other.rolled, **self.rolled}
        merged = replace(self, segments=tuple(segments), rolled=rolled, bed=self.bed or other.bed)
        return merged._rechosen({s.id for s in merged.segments if s.take is None})

    # --- as JSON

    def to_json(self) -> str:
        """The project as project.json has it, for `from_json`."""
        states = [
            {
                "id": segment.id,
                "n_tokens": segment.n_tokens,
                "takes": [asdict(take) for take in segment.takes],
                "chosen": segment.chosen,
                "next_take": segment.next_take,
                "number": segment.number,
            }
            for segment in self.segments
        ]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "layout": self.layout_name,
            "options": asdict(self.options),
            "script": json.loads(to_json(self.script)),
            "segments": states,
            "rolled": dict(self.rolled),
            "bed": None if self.bed is None else asdict(self.bed),
        }
        return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Project:
        """Read what `to_json` wrote.

        Raises:
            InvalidText: not a project, of a newer version, or damaged.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise InvalidText("this file isn't a project of Bark Studio")
            if content["version"] != VERSION:
                raise InvalidText(
                    f"the project has version {shown(content['version'])}; this program reads "
                    f"version {VERSION}: update it if the project is newer"
                )
            return cls._read(content)
        except InvalidText:
            raise
        except (BarkError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InvalidText(
                f"the project is damaged ({error!s:.200}); get it again from a copy"
            ) from error

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> Project:
        script = from_json(json.dumps(content["script"]))
        options = dict(content["options"])
        options["settings"] = settings_from_metadata(options)
        segments = [
            ProjectSegment(
                id=str(state["id"]),
                line=line,
                n_tokens=int(state["n_tokens"]),
                takes=tuple(Take(**take) for take in state["takes"]),
                chosen=state["chosen"],
                next_take=int(state["next_take"]),
                number=int(state["number"]),
            )
            for line, state in zip(script.lines, content["segments"], strict=True)
        ]
        bed = content["bed"]
        return cls(
            model=str(content["model"]),
            layout_name=str(content["layout"]),
            segments=tuple(segments),
            voices=script.voices,
            title=script.title,
            options=ProjectOptions(**options),
            background=script.background,
            bed=None if bed is None else Take(**bed),
            rolled={str(name): str(take) for name, take in content["rolled"].items()},
            notes=script.notes,
        )

    # --- the parts of it

    def _open(self, segment_id: str) -> ProjectSegment:
        segment = self.segment(segment_id)
        if segment.line.locked:
            raise InvalidRequest("the segment is locked; unlock it to change how it sounds")
        return segment

    def _replaced(self, segment_id: str, by: Sequence[ProjectSegment]) -> Project:
        index = self.index(segment_id)
        segments = (*self.segments[:index], *by, *self.segments[index + 1 :])
        return replace(self, segments=segments)

    def _with_line(self, segment_id: str, line: Line) -> Project:
        segment = replace(self.segment(segment_id), line=line)
        return self._replaced(segment_id, [segment])._rechosen({segment_id})

    def _rechosen(self, which: Iterable[str] | None = None) -> Project:
        """Where the take that is heard doesn't fit any more, hear the newest that does, or none."""
        wanted = None if which is None else frozenset(which)
        segments = []
        for segment in self.segments:
            considered = (wanted is None or segment.id in wanted) and not segment.line.locked
            if considered and (segment.take is None or not self._fits(segment, segment.take)):
                fitting = [take.id for take in segment.takes if self._fits(segment, take)]
                segment = replace(segment, chosen=fitting[-1] if fitting else None)
            segments.append(segment)
        return replace(self, segments=tuple(segments))

    def _fits(self, segment: ProjectSegment, take: Take) -> bool:
        return take.recipe == self._recipe(segment)

    def _recipe(self, segment: ProjectSegment, take_id: str = "") -> str:
        """What decides how a segment sounds, as a hash; not its seed, for takes may differ in it.

        Args:
            take_id: of a take to be made, which rolls its speaker's voice where none was yet.
        """
        line = segment.line
        name = self.voice_of(segment)
        rolled = self.rolled.get(line.speaker, take_id)
        own = {key: value for key, value in asdict(line.settings).items() if key != "seed"}
        parts = [self.layout_name, line.text, name or f"rolled {rolled}", own]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _seed(self, segment: ProjectSegment) -> int:
        if segment.line.settings.seed is not None:
            return segment.line.settings.seed
        # of its own, short enough to be read aloud, and the same wherever the segment is moved
        digest = hashlib.sha256(f"{self.options.seed} {segment.number}".encode()).digest()
        return int.from_bytes(digest[:4], "big")

    def _bed_recipe(self) -> str:
        if self.background is None or self.background.prompt is None:
            return ""  # a file isn't made
        parts = f"{self.layout_name} {self.background.prompt}"
        return hashlib.sha256(parts.encode()).hexdigest()[:32]

    def _order_bed(self, take_id: str) -> Order:
        if self.background is None or self.background.prompt is None:
            raise InvalidRequest("there is no background to make; type a prompt for it")
        request = GenerationRequest(
            self.background.prompt,
            seed=self.options.seed % 2**32,
            settings=self.options.settings,
            retries=self.options.retries,
            take=0 if self.bed is None else self.bed.number + 1,
        )
        return Order(BACKGROUND_ID, take_id, self._bed_recipe(), request)


def _words_of(segment: ProjectSegment) -> tuple[str, str]:
    return segment.line.speaker, segment.line.text
