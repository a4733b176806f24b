"""Pretraining: the step and what runs it."""

from xmae_fast.training.step import GraphedStep, adamw

__all__ = ["GraphedStep", "adamw"]
