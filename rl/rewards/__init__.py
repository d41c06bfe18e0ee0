"""Rewards, one file per answer kind, used by training and evaluation alike."""

from rl.rewards.rule import DEMO_RULE, RewardRule
from rl.rewards.scoring import KINDS, check_target, score

__all__ = ["DEMO_RULE", "KINDS", "RewardRule", "check_target", "score"]
