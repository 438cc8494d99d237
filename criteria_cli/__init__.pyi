# What type checkers see of the public names, which `__init__.py` loads lazily.
from criteria_cli.api import load_study as load_study
from criteria_cli.api import train as train
from criteria_cli.training.batches import (
    calculate_gradient_accumulation as calculate_gradient_accumulation,
)
from criteria_cli.training.predict import Predictor as Predictor

__version__: str
