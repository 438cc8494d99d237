"""One place that silences transformers and the hub client: their bars, tips and load reports."""

from __future__ import annotations

import logging


def silence_transformers() -> None:
    """Leave errors alone of what transformers and huggingface_hub say; safe to call again."""
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
