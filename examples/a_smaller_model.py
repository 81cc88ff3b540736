"""Put a model in int8, and look whether it still explains its outputs the same way.

Usage: python examples/a_smaller_model.py MODEL OUT TEXT
"""

import sys

import explain
from explain.compression import CompressConfig, compress, open_run

folder, out, text = sys.argv[1:]
config, run = open_run(CompressConfig(folder, quantize="int8"), out)
found = compress(config, run)
print(found.to_frame().to_string(index=False))

original, smaller = explain.load(folder), explain.load(out)
generation = original.generate(text)
forced = smaller.force(text, generation.target_text) if generation.target_text else generation
before = original.attribute(generation, method="occlusion")
after = smaller.attribute(forced, method="occlusion")
for step, token in enumerate(generation.target_tokens[: len(forced.target_tokens)]):
    names = [generation.source_tokens[int(a.source[step].argmax())].text for a in (before, after)]
    print(f"{token.text}: most needed before {names[0]!r}, after {names[1]!r}")
