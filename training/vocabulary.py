"""The words of pup's tokenizer: one token a character, because a small model reads letters.

The order is part of the model: a checkpoint's embedding rows follow it. Add at the end only.
"""

from __future__ import annotations

import string

N_TOKENS = 160
PUNCTUATION = ".,?!'\"-;:()[]…—♪&"


def character_vocabulary() -> list[str]:
    """Tokens by id, exactly N_TOKENS of them, padded with "[unused0]" and so on.

    "a" starts a word and "##a" continues it. The pre-tokenizer makes every punctuation mark a
    word of its own, so those have one form; the note is a symbol to it, not punctuation, and
    continues a word when somebody writes "la♪".
    """
    tokens = ["[PAD]", "[UNK]"]
    for character in string.ascii_lowercase + string.ascii_uppercase + string.digits:
        tokens += [character, f"##{character}"]
    tokens += list(PUNCTUATION)
    tokens.append("##♪")
    tokens += [f"[unused{index}]" for index in range(N_TOKENS - len(tokens))]
    return tokens
