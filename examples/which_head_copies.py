"""Which head carries a word into the output? Patching two texts that differ in one word, head by head.

Usage: python examples/which_head_copies.py [MODEL TEXT OTHER_TEXT]
"""

import sys

import explain
from explain.analysis import ablate, patch

folder, text, other = sys.argv[1:] or (None, "a b c d", "a b e d")
model = explain.load(folder) if folder else explain.copy_model()  # hand-set weights: one head copies
clean = model.generate(text)
output = clean.target_text
pair = model.force(text, output), model.force(other, output)

patching = patch(model, *pair, points="*.z", by=("layer", "head"))  # all heads: rows of one batch
token = int((patching.other_value - patching.value).abs().argmax())
print(f"{text} / {other}\n→ {output}\n\nheads that bring {patching.rows[token]!r} back:")
for head, share in patching.top(3, row=token):
    print(f"{head.name:>28}  {share:+.2f} of the difference")

print("\nheads without which it is lost:")
for head, nats in ablate(model, clean, "heads").top(3, row=token):
    print(f"{head.name:>28}  {nats:+.2f} nats")
