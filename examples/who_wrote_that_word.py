"""Who wrote that word? Its logit as a sum over blocks and heads, and the layer from which on it was settled.

Usage: python examples/who_wrote_that_word.py MODEL TEXT
"""

import sys

import explain
from explain.analysis import contributions, logit_lens

model_folder, text = sys.argv[1:]
model = explain.load(model_folder)
generation = model.generate(text)
lens = logit_lens(model, generation)

for step, token in enumerate(generation.target_tokens):
    found = contributions(model, generation, step, neurons=0)
    settled = int(lens.settled[step])
    where = "never the most likely" if settled < 0 else f"most likely from {lens.layers[settled]}"
    best = ", ".join(f"{part.name} {part.logit:+.2f}" for part in found.of("head")[:2])
    print(f"{token.text}: logit {found.value:.2f} (parts add up to within {found.error:.0e}), {where}")
    print(f"    {found.of('block')[0].name} adds most; of the heads {best}")
