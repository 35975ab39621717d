"""What a worker of the built-in model has in memory: torch, and nothing that only others need. And
a gateway with a list of workers: no client of a cluster."""

import json
import subprocess
import sys

from tests.processes import REPOSITORY

# Each costs a second or more, or tens of megabytes.
NOT_NEEDED = ("transformers", "huggingface_hub", "torchao", "jinja2", "sympy", "triton")

PROGRAM = """
import json, sys
import services.inference_worker.__main__
from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig

build_engine(WorkerConfig(threads=1, max_sessions=1))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_built_in_model_needs_no_published_models_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "torch" in loaded
    assert [name for name in NOT_NEEDED if name in loaded] == []


GATEWAY = """
import json, sys
import services.gateway.__main__
from services.gateway.config import GatewayConfig
from services.gateway.workers.discovery import discovery_of

for workers in ("a:1,b:2", "dns:a:1"):
    discovery_of(GatewayConfig.from_env({"GATEWAY_WORKERS": workers}))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_gateway_without_a_cluster_needs_no_client_of_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GATEWAY], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "grpc" in loaded
    assert not {"kubernetes", "urllib3", "requests", "pydantic"} & set(loaded)
