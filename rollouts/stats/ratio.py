"""Sample-ratio check: did each arm get the share of new users that the weight says?

If not, the arms differ in more than the model and no comparison means anything. One Beta-Bernoulli e-process for each
step with that step's weight; their log e-values add up. Source: Lindon & Malek, "Anytime-valid inference for
multinomial count data" (NeurIPS 2022).

Assumes that units are independent: count first exposures, never requests. Requests of sticky users void 65 % of sound
rollouts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike

# How sure the prior is that the share is near the weight: 100 units' worth.
CONCENTRATION = 100.0
# Void at 1000:1. The check runs in every rollout, and a void stops a sound one.
VOID = math.log(1000.0)


def log_e(canary: Numbers, total: Numbers, weight: Numbers) -> Floats:
    """Log e-values against "a unit is in the canary with probability weight / 100"; the arguments broadcast.

    Args:
        canary: first-exposure units in the canary during the step.
        total: first-exposure units in both arms during the step.
        weight: the step's whole per cent, 1 to 99.
    """
    canary, total, share = (np.asarray(v, dtype=np.float64) for v in (canary, total, weight))
    share = share / 100
    a, b = CONCENTRATION * share, CONCENTRATION * (1 - share)
    evidence = betaln(a + canary, b + total - canary) - betaln(a, b)
    against: Floats = evidence - canary * np.log(share) - (total - canary) * np.log1p(-share)
    return against
