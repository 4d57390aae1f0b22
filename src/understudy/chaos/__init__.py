"""`understudy chaos`: breaks a fleet on this machine, and tells what users heard meanwhile.

Workers are found by the ids that the edges list, in the command lines of this machine's processes;
regions by what `understudy up --regions` wrote down; the leading controller by the lock that it
holds in the store.
"""

from __future__ import annotations

from understudy.chaos.campaign import check_url, run, table
from understudy.chaos.faults import DEEDS, Hit
from understudy.chaos.processes import NoChaos
from understudy.chaos.processes import workers as processes_of

__all__ = ["DEEDS", "Hit", "NoChaos", "check_url", "processes_of", "run", "table"]
