"""Sample-ratio check: did each arm get the share of new users that the weight says?

If not, the arms differ in more than the model and no comparison means anything. One Beta-Bernoulli e-process for each
step with that step's weight; their log e-values add up. Source: Lindon & Malek, "Anytime-valid inference for
multinomial count data" (NeurIPS 2022).

Assumes that units are independent: count first exposures, never requests. Requests of sticky users void 65 % of sound
rollouts.
"""

from __future__ import annotations

import math

from scipy.special import betaln

# How sure the prior is that the share is near the weight: 100 units' worth.
CONCENTRATION = 100.0
# Void at 1000:1. The check runs in every rollout, and a void stops a sound one.
VOID = math.log(1000.0)


def log_e(canary: float, total: float, weight: int) -> float:
    """Log e-value against "a unit is in the canary with probability weight / 100".

    Args:
        canary: first-exposure units in the canary during the step.
        total: first-exposure units in both arms during the step.
        weight: the step's whole per cent, 1 to 99.
    """
    share = weight / 100
    a, b = CONCENTRATION * share, CONCENTRATION * (1 - share)
    evidence = betaln(a + canary, b + total - canary) - betaln(a, b)
    return float(evidence - canary * math.log(share) - (total - canary) * math.log1p(-share))
