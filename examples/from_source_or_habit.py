"""How much of each word comes from the source, how much from habit, and why not another word?

Usage: python examples/from_source_or_habit.py MODEL TEXT [FOIL]
"""

import sys

import explain

model_folder, text, *foil = sys.argv[1:]
model = explain.load(model_folder)
generation = model.generate(text)
share = explain.source_share(model, generation)  # forward mode: no map needed

print(f"{text}\n→ {generation.target_text}\n")
for token, part, source in zip(generation.target_tokens, share.share, share.source, strict=True):
    print(f"{token.text:>14}  {float(part):6.0%} from the source ({float(source):+.2f} {share.units})")

# The first token that differs from the foil, and nothing else: one position costs a fraction of all.
other = foil[0] if foil else generation.alternatives(0, 2)[1]  # a text, or what it nearly wrote
attribution = model.attribute(generation, target="logit", contrast=other, positions=0)
print(f"\nWhy {generation.target_tokens[0].text!r} rather than {attribution.contrast!r}?")
for _, index, score in attribution.top(0, k=3):
    print(f"{attribution.source_tokens[index].text:>14}  {score:+.2f} logits")
