"""Which of these outputs should I not trust, and why?

Usage: python examples/which_outputs_not_to_trust.py MODEL CLEAN TEXTS FOLDER

CLEAN is a data file whose outputs are known to be sound, or the name of a task: without 500 of them scores
are shown and there is no verdict. TEXTS is what to audit.
"""

import sys

import explain
from explain.audit import calibrate

model_folder, clean, texts, folder = sys.argv[1:]
model = explain.load(model_folder)
calibration = calibrate(model, clean, detectors=["log_prob", "source_share", "repetition"])
found = explain.audit(model, texts, calibration=calibration, folder=folder)

print(f"{found.verdict}: {found.reason}")
for name, detector in found.detectors.items():
    said = f"{detector.flagged.count} of {found.examples} flagged" if detector.flagged else "scores only"
    print(f"{name}: {said}")
for suspect in found.suspects[:5]:
    print(f"\n{suspect.source}\n→ {suspect.output}")
    for flag in suspect.flags:
        print(f"   {flag.detector} {flag.score:.3g}: so suspicious are {flag.p_value:.1%} of clean outputs")

print(f"\n{found.save(f'{folder}/audit.json')} keeps all of it.")
