"""Everything that computes with weights: torch and transformers, never gradio."""

import logging
import os

# Libraries' own progress bars stay silent: jobs report progress through callbacks.
os.environ.setdefault("TQDM_DISABLE", "1")
# gptqmodel brings torchao along, which transformers then imports. It warns of missing GPU kernels,
# and nothing here uses those.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
