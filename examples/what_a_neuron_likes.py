"""What does a neuron respond to? The most selective neurons of every layer, with their best example.

Usage: python examples/what_a_neuron_likes.py MODEL TEXTS.txt
"""

import sys

import explain
from explain.analysis import survey_neurons
from explain.training.data import read_table

model_folder, texts = sys.argv[1:]
model = explain.load(model_folder)
survey = survey_neurons(model, read_table(texts, need_target=False), top=3)

for layer in survey.summary():
    print(f"{layer.point}: {layer.neurons} neurons, {layer.dead} never above 0")
    for neuron in survey.most_selective(layer.point, 3):
        best = neuron.examples[0]
        words = " ".join(f"[{w}]" if i == best.at else w for i, w in enumerate(best.context))
        print(f"  {neuron.index:4d} responds to {neuron.kind} {neuron.label!r}: {words} ({best.value:.2f})")
