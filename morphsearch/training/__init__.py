"""Training: recipes, trainer, evaluation, batch-norm statistics, retraining from scratch, checkpoints, executors."""

from morphsearch.training.batchnorm import reestimate_batchnorm
from morphsearch.training.checkpoint import load_checkpoint, save_checkpoint
from morphsearch.training.devices import flush_denormals
from morphsearch.training.epoch import EpochStats
from morphsearch.training.evaluation import Evaluation, evaluate
from morphsearch.training.executors import LocalExecutor
from morphsearch.training.heldout import HeldOut
from morphsearch.training.interrupts import Interrupt, deferred_interrupts
from morphsearch.training.outputs import classification_loss, split_outputs
from morphsearch.training.precision import Choice
from morphsearch.training.recipe import Recipe
from morphsearch.training.results import RetrainResult, load_result
from morphsearch.training.retraining import retrain
from morphsearch.training.trainer import Trainer

__all__ = [
    "Choice",
    "EpochStats",
    "Evaluation",
    "HeldOut",
    "Interrupt",
    "LocalExecutor",
    "Recipe",
    "RetrainResult",
    "Trainer",
    "classification_loss",
    "deferred_interrupts",
    "evaluate",
    "flush_denormals",
    "load_checkpoint",
    "load_result",
    "reestimate_batchnorm",
    "retrain",
    "save_checkpoint",
    "split_outputs",
]
