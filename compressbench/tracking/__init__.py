"""MLflow: a run for every (pair, method, setting, seed), and below it one for each of its stages.

The files under results/ are the truth and MLflow is a view of them. A stage that trains is tracked live, from its first
epoch on (`live`). What has no epochs (evaluation, latency, one-shot compression) is over in seconds, and importing MLflow
would take as long again: `synchronise` logs it afterwards, in one process, and rebuilds a store that was lost. A store that
cannot be used is one warning and never stops a stage.
"""

from compressbench.tracking.gate import gate
from compressbench.tracking.live import Tracker, tracked
from compressbench.tracking.mirror import prepare, synchronise
from compressbench.tracking.results import final_metrics
from compressbench.tracking.store import uri

__all__ = ["Tracker", "final_metrics", "gate", "prepare", "synchronise", "tracked", "uri"]
