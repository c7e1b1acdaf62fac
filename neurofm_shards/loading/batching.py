"""Rules for what goes into one batch, under their public import path; see ``loading.plans.batching``."""

from __future__ import annotations

from neurofm_shards.loading.plans.batching import Balanced, BatchingRule, OneSession, TokenBudget, column_lengths

__all__ = ["Balanced", "BatchingRule", "OneSession", "TokenBudget", "column_lengths"]
