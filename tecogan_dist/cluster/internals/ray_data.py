"""What is used of Ray Data that has no public name, read in Ray 2.60.0. Decoding processes import it: no torch here."""

from __future__ import annotations

from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
from ray.data._internal.execution.execution_callback import ExecutionCallback as ExecutionCallback
from ray.data._internal.stats import get_or_create_stats_actor
from ray.data._internal.usage.actor import get_or_create_usage_collection_actor


def start_helpers_early() -> None:
    """Have this machine start the actors that every training will wait for, beside what comes before they are needed.

    Ray Train's controller and Ray Data would start them one after the other, a second or more each.
    """
    get_or_create_autoscaling_coordinator()
    get_or_create_stats_actor()


def keep_statistics_here() -> None:
    """Have this machine run the two actors in which Ray Data collects its statistics, if the cluster has none yet.

    Ray Data starts them where it is first used, for good: on a worker's machine they would count as work, so that an
    autoscaler would never take that machine away. The second one is only sent something by machines whose Ray may
    report its usage, which the workers' may where the head's may not.
    """
    get_or_create_stats_actor()
    get_or_create_usage_collection_actor()
