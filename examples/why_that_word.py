"""Why did it write that word? Integrated gradients with their evidence, word by word.

Usage: python examples/why_that_word.py MODEL TEXT
"""

import sys

import explain

model_folder, text = sys.argv[1:]
model = explain.load(model_folder)
generation = model.generate(text)
attribution = model.attribute(generation, method="integrated_gradients", tolerance=0.01).words()

print(f"{text}\n→ {generation.target_text}\n")
for step, token in enumerate(attribution.target_tokens):
    reasons = []
    for side, index, score in attribution.top(step, k=3):
        tokens = attribution.source_tokens if side == "source" else attribution.target_tokens
        reasons.append(f"{tokens[index].text} {score:+.2f}{' (own prefix)' if side == 'prefix' else ''}")
    error = float(attribution.completeness_error[step])
    print(f"{token.text:>14}  log-prob {float(attribution.log_probs[step]):6.2f}  ← {', '.join(reasons)}")
    print(f"{'':>14}  completeness error {error:.2%} of what the text changes")
