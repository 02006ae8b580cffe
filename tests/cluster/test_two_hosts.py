"""Two hosts run ingest and ten steps of pretraining over one lake, one worker on each host (STACK.md section 2)."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

WHERE_TASKS_RUN = """
import json, sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where():
    time.sleep(2)  # else the first worker is free again before the other host has started one
    return ray.util.get_node_ip_address()

print(json.dumps(sorted(set(ray.get([where.remote() for _ in range(8)])))))
"""


def test_tasks_reach_both_hosts(two_hosts: Any) -> None:
    out = two_hosts.first.run(sys.executable, "-c", WHERE_TASKS_RUN, two_hosts.ray_address)
    assert json.loads(out.splitlines()[-1]) == ["10.77.0.1", "10.77.0.2"]
