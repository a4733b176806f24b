"""Looking at what a model has learned."""

from xmae_fast.evaluation.lag import LagProfile, lag_profile

__all__ = ["LagProfile", "lag_profile"]
