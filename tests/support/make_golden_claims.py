"""`python -m tests.support.make_golden_claims` writes tests/analysis/claims.json: verdicts and
numbers of a simulated grid."""

import json
import tempfile
from pathlib import Path

from analysis.claims import judge_all
from analysis.runs.load import load
from tests.support import simulate

WORLD = simulate.World(
    loss={"magnitude": -0.03}, accuracy={"grasp_t1": 0.1}, growth={"grasp": 2},
    diverged=("random",), change={"loss": -0.1, "random": 0.3}, shift={"loss": -0.1},
)  # fmt: skip
"""In it some claims hold, some do not, and one is undecided."""


WORDS = ("sentence", "plain", "statistic", "rule", "settings")
"""Keys that are left out."""


def golden_claims(folder: Path) -> list[dict]:
    """The content of claims.json without its texts, and numbers to three digits."""
    simulate.simulate(folder, simulate.study(archs=("vgg13", "resnet56"), seeds=range(6)), WORLD)
    return [rounded(item.to_dict()) for item in judge_all(load(str(folder)))]


def rounded(value: object) -> object:
    """Numbers to three digits, and no text but labels and verdicts."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items() if key not in WORDS}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        claims = golden_claims(Path(temporary))
    target = Path(__file__).parents[1] / "analysis" / "claims.json"
    target.write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    print("".join(f"{claim['id']} {claim['verdict']}\n" for claim in claims), end="")
