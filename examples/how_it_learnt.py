"""How did it learn? The story of a run: when heads aligned, maps became right, a cue began to decide.

explain train --task invoice --out RUN --story
python examples/how_it_learnt.py RUN
"""

import sys
from pathlib import Path

import explain

run = Path(sys.argv[1])
story = explain.training_story(run)
figures = ["step", "loss", "exact_match", "precision_at_1", "advantage"]
print(story.to_frame()[figures].round(3).to_string(index=False))
for finding in story.findings:
    print(f"step {finding.step}: {finding.text}")
page = run / "story.html"
page.write_text(story.to_html(), encoding="utf-8")
print(f"wrote {page}")
