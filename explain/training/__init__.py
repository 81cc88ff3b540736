"""Training: text pairs or tasks with known answers in, a run folder with a model out.

Import from the modules: `config` and `tasks` are light, `train` brings torch and transformers.
"""
