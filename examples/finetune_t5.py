"""The field's worked example: a T5 from a model folder, fine-tuned by Adam on one pair of sentences.

Usage: python examples/finetune_t5.py T5_FOLDER SOURCE TARGET
"""

import sys

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import explain

folder, source, target = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
network = AutoModelForSeq2SeqLM.from_pretrained(folder)
optimizer = torch.optim.Adam(network.parameters(), lr=5e-5)
batch = tokenizer(source, text_target=target, return_tensors="pt")

network.eval()  # one pair: dropout would only add noise to the loss we watch
for step in range(20):
    loss = network(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1:2}: loss {loss.item():.4f}")

# The same objects, opened: nothing is copied, nothing is changed.
model = explain.wrap(network, tokenizer)
generation = model.force(source, target)
attribution = model.attribute(generation, method="occlusion")
for step, token in enumerate(generation.target_tokens):
    best = int(attribution.source[step].argmax())
    print(f"{token.text}: most needed source token {generation.source_tokens[best].text!r}")
