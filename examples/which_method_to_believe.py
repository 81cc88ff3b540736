"""Which attribution method should I believe on my model?

Usage: python examples/which_method_to_believe.py MODEL DATA [METHOD …]

DATA is a file of source texts (.txt, .tsv, …) or, for a model of `explain train --task`, the task's name.
"""

import sys

import explain

model_folder, data, *methods = sys.argv[1:]
model = explain.load(model_folder)
found = explain.evaluate(model, data, methods=methods or ["occlusion", "attention", "saliency"])

for place, name in enumerate(found.ranking, start=1):
    card, result = found.cards[name], found.methods[name]
    gain = result.faithfulness.advantage if result.faithfulness else None
    more = f", hides {gain.value:+.2f} more probability than a random order" if gain else ""
    print(f"{place}. {name}: {card.verdict}{more}")
    for check in card.checks:
        print(f"   {'?' if check.passed is None else '✓' if check.passed else '✗'} {check.reason}")

print(f"\n{found.save('evaluation.json')} keeps all of it; explain.load_evaluation reads it back.")
