"""Two models write the same. For the same reasons?

Usage: python examples/same_reasons.py ORIGINAL OTHER DATA [RETRAINED …]

DATA is a file of source texts (.txt, .tsv, …) or a task's name. RETRAINED are models of the original's recipe
and other seeds: without them, nobody can say whether a change is more than noise.
"""

import sys

import explain

original, other, data, *retrained = sys.argv[1:]
models = [explain.load(folder) for folder in (original, other, *retrained)]
found = explain.compare(*models[:2], data, floor=models[2:], methods=["occlusion", "attention"])

same = found.figures.outputs.agreement
print(f"{same.value:.0%} of {same.n} outputs are the same")
for method, drift in found.figures.drift.items():
    floor = (
        f", retrained models {found.floor.figures.drift[method].topk_jaccard.value:.0%}"
        if found.floor
        else ""
    )
    print(f"{method}: {drift.topk_jaccard.value:.0%} of the strongest tokens are shared{floor}")
print(f"alarm: {found.alarm.alarm} ({found.alarm.reason})")

for example in found.examples[:2]:
    print(f"\nmoved most by {example.method}: {example.a.source_text} → {example.a.target_text}")
    for name, attribution in (("original", example.a), ("other", example.b)):
        words = attribution.words()
        strongest = [words.source_tokens[i].text for side, i, _ in words.top(0, k=3) if side == "source"]
        print(f"  {words.target_tokens[0].text!r} by the {name}: {', '.join(strongest)}")
