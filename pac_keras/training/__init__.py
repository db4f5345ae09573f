"""Training runs: the experiment, its schedule, what happens during `fit`, the run folder."""

from pac_keras.training.experiment import Experiment, ExperimentError, load_config

__all__ = ["Experiment", "ExperimentError", "load_config"]
