"""Everything that computes with weights: torch and transformers, never gradio."""

import os

# Libraries' own progress bars stay silent: jobs report progress through callbacks.
os.environ.setdefault("TQDM_DISABLE", "1")
