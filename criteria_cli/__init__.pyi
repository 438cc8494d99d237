# What type checkers see of the public names, which `__init__.py` loads lazily.
from criteria_cli.api import load_study as load_study
from criteria_cli.api import train as train
from criteria_cli.training.batches import (
    calculate_gradient_accumulation as calculate_gradient_accumulation,
)
from criteria_cli.training.predict import Predictor as Predictor
from criteria_cli.training.vram import get_gpu_vram_info as get_gpu_vram_info
from criteria_cli.training.vram import probe_max_batch_size as probe_max_batch_size

__version__: str
