"""Training shares the machine with the processes that serve users, so its threads wait asleep.

OpenMP's threads (scikit-learn's trees) wait for each other in a busy loop. Next to other load they then mostly wait for
a processor that another waiting thread burns: 60 trees on 300 columns took 20 to 60 s on two busy processors, and 2 to
5 s asleep. On an idle machine waking up costs some ten microseconds a time.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping


def share_processors(environment: MutableMapping[str, str] | None = None) -> None:
    """Let waiting threads sleep, unless the user chose; only counts before OpenMP is loaded."""
    target = os.environ if environment is None else environment
    target.setdefault("OMP_WAIT_POLICY", "passive")
