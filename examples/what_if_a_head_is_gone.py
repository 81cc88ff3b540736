"""What does a head do? Silence each cross-attention head in turn and see what changes in the output.

Usage: python examples/what_if_a_head_is_gone.py MODEL TEXT
"""

import sys

import explain

model_folder, text = sys.argv[1:]
model = explain.load(model_folder)
before = model.generate(text)
print(f"{'whole model':>24}: {before.target_text}")


def silence(head):
    """A function that sets one head's output to 0: z is [batch, head, position, head_dim]."""

    def function(z):
        z = z.clone()
        z[:, head] = 0
        return z

    return function


description = model.describe()
for layer in range(description["decoder_layers"]):
    for head in range(description["heads"]):
        with model.intervene({f"decoder.{layer}.cross.z": silence(head)}):
            forced = model.force(text, before.target_text) if before.target_text else before
            written = model.generate(text).target_text
        change = float(forced.log_probs.sum() - before.log_probs.sum())
        print(f"without layer {layer} head {head}: {written}   (old output: {change:+.2f} nats)")
