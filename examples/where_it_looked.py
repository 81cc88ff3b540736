"""Where did the decoder look? The cross-attention of every layer and head, from one captured pass.

Usage: python examples/where_it_looked.py MODEL TEXT
"""

import sys

import explain

model_folder, text = sys.argv[1:]
model = explain.load(model_folder)
generation = model.generate(text)
capture = model.capture(generation, "decoder.*.cross.pattern")

for name, pattern in capture.items():  # [1, head, target, source]
    for head, weights in enumerate(pattern[0]):
        best = weights.argmax(-1)
        looked = [generation.source_tokens[int(i)].text for i in best]
        pairs = zip(generation.target_tokens, looked, weights.max(-1).values, strict=True)
        print(f"{name} head {head}: " + "  ".join(f"{t.text}←{s} {float(w):.2f}" for t, s, w in pairs))
