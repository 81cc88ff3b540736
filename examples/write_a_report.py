"""A report to hand in: one offline HTML file for several sentences, with a method and its control.

Usage: python examples/write_a_report.py MODEL OUT.html TEXT [TEXT …]
"""

import sys

import explain

model_folder, out, *texts = sys.argv[1:]
model = explain.load(model_folder)
report = explain.report(model, texts, methods=["integrated_gradients", "occlusion", "attention", "random"])
path = report.save(out)
print(f"wrote {path} and {path.with_suffix('.json')} for {len(texts)} texts")
