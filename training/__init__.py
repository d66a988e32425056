"""How pup, the bundled miniature of Bark, is made: data, codec, transformers, evaluation."""
