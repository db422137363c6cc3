"""`python -m tests.support.make_identities` writes tests/benchmark/identities.json. Add pins, never
change one."""

import json
from pathlib import Path

from benchmark.config import RunConfig

FIELDS = [
    {},
    {"measure": "none"},
    {"measure": "none", "seed": 2},
    {"measure": "loss", "arch": "resnet56", "dataset": "cifar10"},
    {"measure": "grasp", "arch": "mobilenet_v1", "dataset": "cifar100", "rounds": 5, "seed": 1},
    {"measure": "magnitude", "prune_epoch": 40, "rounds": 25},
    {"measure": "magnitude", "prune_epoch": "trained", "ratio": 0.6},
    {"measure": "grad_preservation", "width": 0.25, "epochs": 20, "train_limit": 5000},
    {"measure": "random", "protocol": "paper", "ablation": "invert"},
    {"measure": "loss", "score_bn": "running", "test_limit": 2000},
    {"measure": "grasp_t1", "budget": "macs", "allocation": "uniform", "rounds": 5},
    {"measure": "random", "arch": "resnet56", "grouping": "stream", "budget": "params"},
    {"dataset": "folder:photos", "batch_size": 32, "precision": "bf16", "cut_momentum": "carry"},
]

if __name__ == "__main__":
    pins = [{"run_id": RunConfig(**fields).run_id, "fields": fields} for fields in FIELDS]
    (Path(__file__).parents[1] / "benchmark" / "identities.json").write_text(
        json.dumps(pins, indent=1) + "\n"
    )
