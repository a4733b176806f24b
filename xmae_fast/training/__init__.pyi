"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.training.config import TrainCfg as TrainCfg
from xmae_fast.training.config import read_train_cfg as read_train_cfg
from xmae_fast.training.config import train_cfg_from_dict as train_cfg_from_dict
from xmae_fast.training.gradients import GradientArena as GradientArena
from xmae_fast.training.loop import Result as Result
from xmae_fast.training.optimiser import adamw as adamw
from xmae_fast.training.pretraining import PretrainingError as PretrainingError
from xmae_fast.training.pretraining import make_step as make_step
from xmae_fast.training.pretraining import pretrain as pretrain
from xmae_fast.training.step import GraphedStep as GraphedStep
from xmae_fast.training.validation import validation_loss as validation_loss
