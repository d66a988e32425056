"""`python -m training COMMAND`: make pup again, step by step."""

from __future__ import annotations

import argparse
import importlib

from training.memory import keep_memory

# command -> (module with add_arguments(parser) and main(args), help)
COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("training.data", "render sentences with the teacher"),
    "voice": ("training.voice", "make the sound of what was rendered without"),
    "codec": ("training.codec", "make the codebooks"),
    "decoder": ("training.decoder", "codes to sound"),
    "semantic": ("training.semantic", "letters to semantic tokens"),
    "coarse": ("training.coarse", "semantic tokens to coarse codes"),
    "fine": ("training.fine", "coarse to fine codes"),
    "recogniser": ("training.recogniser", "sound to semantic tokens, for voices from recordings"),
    "export": ("training.export", "write models/pup and its voices"),
    "card": ("training.card", "write the model card from the evaluation"),
    "evaluate": ("training.evaluate", "word error rate by pocketsphinx"),
    "behaviour": ("training.behaviour", "voices, cues, delivery, ends, temperature, cost"),
    "sounds": ("training.sounds", "sound files and spectrograms for docs/pup.md"),
    "recordings": ("training.examples", "sound files with transcripts, as examples"),
    "finetune": ("training.finetune", "teach one stage of any model from examples"),
    "all": ("training.all", "every step, from nothing to the shipped model"),
}


def main() -> None:
    """Run one step."""
    keep_memory()
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    steps = parser.add_subparsers(dest="command", required=True)
    for name, (_module, text) in COMMANDS.items():
        steps.add_parser(name, help=text, add_help=False)
    chosen, rest = parser.parse_known_args()
    module = importlib.import_module(COMMANDS[chosen.command][0])
    step = argparse.ArgumentParser(prog=f"python -m training {chosen.command}")
    module.add_arguments(step)
    module.main(step.parse_args(rest))


if __name__ == "__main__":
    main()
