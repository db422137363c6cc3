"""The description of one run: every field that can change its result, and its identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from benchmark import initial, registry
from benchmark.errors import UserError, require, require_one_of
from benchmark.files import short_digest
from benchmark.outside import is_outside

PROTOCOLS = ("exact", "paper")
PRECISIONS = ("float32", "tf32", "bf16")
STATISTICS = ("fresh", "running")
TRAINED = "trained"
RULES = 2
"""Version of the definitions behind every number; part of each identity. Runs of different rules
are never mixed."""

CUT_FIELDS = (
    "ratio", "prune_epoch", "rounds", "retrain", "ablation", "protocol", "cut_momentum",
    "score_samples", "score_bn", "budget", "allocation", "grouping", "sampling", "removal",
)  # fmt: skip
"""Fields that only a cut reads: they do not matter to a run without cuts."""

PROBE_FIELDS = ("score_samples", "score_bn")
"""Fields of `CUT_FIELDS` that probes read too."""
EXACT_FIELDS = ("budget", "allocation", "grouping", "sampling", "removal")
"""Fields of the rules `exact`."""
MOST = 2**31 - 1
"""The largest whole number of a field that has no entry in `LARGEST`."""
WIDEST = 64
"""The largest width; a wider net is a mistake, and would take all the memory."""
MOST_BYTES = 4096
"""The longest name; a path is at most that long."""
LABELLED = (
    "measure", "arch", "dataset", "ratio", "budget", "allocation", "grouping", "sampling",
    "removal", "prune_epoch", "rounds", "probe_epochs", "seed",
)  # fmt: skip
"""Fields that `RunConfig.label` shows."""
FORMS = {
    "measure": r"[A-Za-z_]\w*(@[0-9a-f]{12})?",
    "arch": r"[A-Za-z_]\w*(:\w+)?(@[0-9a-f]{12})?",
    "dataset": r"(?s)[A-Za-z_]\w*(:.*)?(@[0-9a-f]{12})?",
}
"""The form of the names of components."""
EPOCHS = r"(\d{1,6}(,\d{1,6})*)?"
"""The form of `probe_epochs`."""
CHOICES = {
    "retrain": ("budget", "restart"),
    "ablation": ("none", "layer_shuffle", "reinit", "invert"),
    "protocol": PROTOCOLS,
    "cut_momentum": ("reset", "carry"),
    "precision": PRECISIONS,
    "score_bn": STATISTICS,
    "budget": ("filters", "params", "macs"),
    "allocation": ("global", "uniform", "magnitude"),
    "grouping": ("filter", "stream"),
    "sampling": ("none", "gibbs"),
    "removal": ("hard", "soft"),
}
LEAST = {
    **dict.fromkeys(("rounds", "epochs", "batch_size", "score_samples", "probe_samples"), 1),
    **dict.fromkeys(("weight_decay", "train_limit", "test_limit", "seed"), 0),
}
LARGEST = {"epochs": 100_000, "rounds": 100_000, "seed": 2**63 - 1}
NOUNS = {int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The science of one run. Raises `UserError` (a ValueError) for a value that is not allowed."""

    measure: str = "magnitude"
    """Importance measure, or a file .py with one: the lowest-scored filters are pruned (`none`: the
    dense control)."""
    arch: str = "vgg13"
    """Architecture, torchvision:NAME, or a file .py with one."""
    dataset: str = "digits"
    """Data set: digits, cifar10, cifar100, folder:PATH (class folders under train/ and test/), or a
    file .py with one."""
    width: float = 1.0
    """Factor on the number of filters of every layer (at least 8 stay)."""
    ratio: float = 0.75
    """Fraction of `budget` that all cuts together remove, between 0 and 1."""
    budget: str = "filters"
    """What `ratio` is a share of: filters (of the prunable layers), params or macs of the dense
    net."""
    allocation: str = "global"
    """How much each layer keeps: global (one ranking), uniform (the same share), or magnitude (as
    much as `magnitude` would keep; inside a layer the measure decides)."""
    grouping: str = "filter"
    """What is removed at once: a filter, or a channel of a residual stream with all filters that
    write it (stream)."""
    prune_epoch: int | str = 0
    """Epochs of dense training before the first cut (0: at initialisation), or `trained`: all of
    them, then restart."""
    rounds: int = 1
    """Number of cuts, one epoch apart."""
    retrain: str = "budget"
    """`budget`: one schedule of `epochs` contains everything. `restart`: the schedule starts again
    at the first cut."""
    sampling: str = "none"
    """Noise on the scores: none, or gibbs (in round k of n, logistic noise of (n - k) / n standard
    deviations of the layer's scores, so that the last of several rounds has none)."""
    removal: str = "hard"
    """How filters go in several rounds: hard (each round removes some), or soft (each round scales
    down those that the last one would remove; the last one removes them)."""
    ablation: str = "none"
    """Sanity check: none, layer_shuffle (permute scores inside layers), reinit (fresh weights after
    a cut), invert."""
    protocol: str = "exact"
    """Rules of ranking: exact, or paper (what the authors' released code does)."""
    cut_momentum: str = "reset"
    """The optimizer's momentum at a cut: reset, or carry (sliced along with the weights)."""
    epochs: int = 160
    """Epochs of the learning-rate schedule."""
    batch_size: int = 128
    """Images per training step."""
    lr: float = 0.1
    """Initial learning rate; divided by 10 at 1/2 and at 3/4 of the epochs."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on all parameters."""
    temperature: float = 5.0
    """T: training and every logged loss use the cross-entropy of logits / T."""
    score_samples: int = 2560
    """Training images that a cut is decided on, class-balanced."""
    score_bn: str = "fresh"
    """Batch-norm statistics that scores and the changes at a cut are computed with: fresh (those of
    the scoring set) or running (those of the training net, as in the authors' code and always with
    protocol=paper)."""
    probe_samples: int = 512
    """Training images on which the gradient flow is measured, class-balanced."""
    precision: str = "float32"
    """Arithmetic of training: float32, tf32 or bf16. Scoring is always float32."""
    train_limit: int = 0
    """Train on this many images only, class-balanced (0: all)."""
    probe_epochs: str = ""
    """Epochs of a dense run (measure=none) at which every measure makes small cuts on a copy of the
    net, such as 1,3,10 (empty: none)."""
    test_limit: int = 0
    """Test on this many images only, class-balanced, and on all of them after the last epoch (0:
    always on all)."""
    init: str = ""
    """File of the weights that training starts from: a state dict of this net (empty: random
    weights). A run knows it by a digest of the weights."""
    seed: int = 0
    """Seed of initial weights, data order, augmentation, scoring set and random measures."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name, form in FORMS.items():
            value = getattr(self, name)
            text = value.encode(errors="replace").decode() == value  # else not all of it is text
            fits = text and re.fullmatch(form, value) and len(value.encode()) <= MOST_BYTES
            require(bool(fits), name, value, "the name of a component")
        allowed = "a digest of 12 hex digits (benchmark.initial.resolve gives that of a file)"
        require(bool(re.fullmatch(initial.FORM, self.init)), "init", self.init, allowed)
        epochs = self.probe_epochs
        good = bool(re.fullmatch(EPOCHS, epochs))
        require(good, "probe_epochs", epochs, "whole numbers with commas between them, as 1,3,10")
        for name, allowed in CHOICES.items():
            require_one_of(name, getattr(self, name), allowed)
        for name in ("width", "lr", "temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(self.width <= WIDEST, "width", self.width, f"at most {WIDEST}")
        for name, least in LEAST.items():
            require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        for name in DEFAULTS:
            value, largest = getattr(self, name), LARGEST.get(name, MOST)
            if type(value) is int:
                require(abs(value) <= largest, name, value, f"at most {largest}")
        require(0 < self.ratio < 1, "ratio", self.ratio, "between 0 and 1, both excluded")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        for epoch in self.probed:
            require(epoch <= self.epochs, "probe_epochs", self.probe_epochs, f"up to {self.epochs}")
        if self.measure != "none":
            check_rules_of(self.protocol, {name: getattr(self, name) for name in EXACT_FIELDS})
            self._check_timing()
            soft = self.removal == "soft" and self.rounds > 1
            require(
                not soft or self.ablation != "reinit", "removal with ablation=reinit",
                self.removal, "hard",
            )  # fmt: skip

    def _check_timing(self) -> None:
        most = f"at most epochs = {self.epochs}"
        require(self.rounds <= self.epochs, "rounds", self.rounds, most)
        epoch, retrain = _timing(self)
        latest, allowed = self.epochs, f"from 0 to epochs = {self.epochs}"
        if retrain == "budget":
            latest -= self.rounds
            allowed = f"from 0 to epochs - rounds = {latest} (or use retrain='restart')"
        require(0 <= epoch <= latest, "prune_epoch", self.prune_epoch, allowed)

    def check_components(self) -> None:
        """Raise `UserError` unless the measure, the architecture and the data set are installed,
        and the architecture goes with the protocol.

        A record can be read without them, but a run cannot begin.
        """
        registry.check("measure", "measures", self.measure)
        registry.check("arch", "models", self.arch)
        registry.check("dataset", "data", self.dataset)
        paper = self.canonical().protocol == "paper"
        if paper and self.arch not in registry.names("models"):
            raise UserError(f"protocol with arch={self.arch} must be exact, got 'paper'")

    @property
    def outside(self) -> dict[str, str]:
        """{kind: name@digest} of the components that are not part of the suite."""
        dataset = registry.split(self.dataset)[0]
        named = {"measures": self.measure, "models": self.arch, "data": dataset}
        return {kind: name for kind, name in named.items() if is_outside(name)}

    @property
    def probed(self) -> tuple[int, ...]:
        """The epochs of `probe_epochs`, in order, each once."""
        return tuple(sorted({int(epoch) for epoch in self.probe_epochs.split(",") if epoch}))

    def canonical(self) -> RunConfig:
        """The same run with every field that does not matter to it at its default."""
        if self.measure == "none" and self.probed:
            kept = {name: getattr(self, name) for name in PROBE_FIELDS}
            epochs = ",".join(map(str, self.probed))
            return dataclasses.replace(self.dense(), **kept, probe_epochs=epochs)
        if self.measure == "none":
            return self.dense()
        epoch, retrain = _timing(self)
        matters = {"prune_epoch": epoch, "retrain": retrain, "probe_epochs": ""}
        if self.protocol == "paper":
            matters["score_bn"] = "running"
        if self.rounds == 1:
            matters |= {"sampling": "none", "removal": "hard"}
        own_order = self.ablation != "invert" and (self.sampling == "none" or self.rounds == 1)
        if self.measure == "magnitude" and self.allocation == "magnitude" and own_order:
            matters["allocation"] = "global"
        if all(getattr(self, name) == value for name, value in matters.items()):
            return self
        return dataclasses.replace(self, **matters)

    def dense(self) -> RunConfig:
        """The dense control of this run: the same run without cuts and probes."""
        defaults = {name: DEFAULTS[name] for name in (*CUT_FIELDS, "probe_epochs")}
        return dataclasses.replace(self, measure="none", **defaults)

    @property
    def accumulates(self) -> bool:
        """Whether its measure needs the gradients of training."""
        return registry.load_measure(self.measure).accumulates

    @property
    def phase(self) -> str:
        """The name of its dense phase, which runs share: the run_id of its dense control, marked if
        gradients are accumulated in it."""
        return self.dense().run_id + ("-accumulated" if self.accumulates else "")

    @cached_property
    def cell(self) -> str:
        """Identity without the seed: a digest (12 hex digits) of `RULES` and of the fields that
        differ from their defaults.

        A new field whose default keeps the old behaviour therefore renames no old run.
        """
        fields = self.canonical().to_dict()
        science = {k: v for k, v in fields.items() if k != "seed" and v != DEFAULTS[k]}
        science["rules"] = RULES
        return short_digest(json.dumps(science, sort_keys=True).encode())

    @property
    def run_id(self) -> str:
        """Identity of the run, and the name of its folder: `<cell>-s<seed>`."""
        return f"{self.cell}-s{self.seed}"

    @property
    def label(self) -> str:
        """A name for people, such as `loss vgg13 digits p0.75 @2x5 s0`."""
        run = self.canonical()
        if run.measure == "none":
            probes = f" probed @{run.probe_epochs}" if run.probe_epochs else ""
            return f"none {run.arch} {run.dataset}{probes} s{run.seed}"
        share = f"p{run.ratio:g}" + ("" if run.budget == "filters" else f" of {run.budget}")
        rules = "".join(
            f" {getattr(run, name)}"
            for name in ("allocation", "grouping", "sampling", "removal")
            if getattr(run, name) != DEFAULTS[name]
        )
        cuts = f"{share}{rules} @{run.prune_epoch}x{run.rounds}"
        return f"{run.measure} {run.arch} {run.dataset} {cuts} s{run.seed}"

    def to_dict(self) -> dict[str, object]:
        """The fields as a plain dictionary, in order of declaration."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> RunConfig:
        """The inverse of `to_dict`; raises `UserError` for an unknown field."""
        for name in values:
            if name not in DEFAULTS:
                raise UserError(f"unknown field {name!r}; the fields are {', '.join(DEFAULTS)}")
        return cls(**values)


DEFAULTS: dict[str, object] = {field.name: field.default for field in dataclasses.fields(RunConfig)}


def check_rules_of(protocol: str, values: dict[str, str]) -> None:
    """Raise `UserError` if rules of ranking come with `paper`, whose own are given.

    values: {name of a field of `EXACT_FIELDS`: its value}.
    """
    for name, value in values.items():
        default = DEFAULTS[name]
        require(
            protocol != "paper" or value == default, f"{name} with protocol=paper", value, default
        )


def stream_seed(stream: str, config: RunConfig, *fields: str, epoch: int = 0) -> int:
    """Seed (63 bits) of a named random stream; it depends only on the named fields, the seed and
    the epoch."""
    key = [stream, config.seed, epoch, *(getattr(config, name) for name in fields)]
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1


def _timing(config: RunConfig) -> tuple[int, str]:
    """`prune_epoch` as a number, and `retrain`, in canonical form."""
    if config.prune_epoch == TRAINED:
        return config.epochs, "restart"
    if config.prune_epoch == 0:  # there is no dense phase to restart after
        return 0, DEFAULTS["retrain"]
    return config.prune_epoch, config.retrain


def _check_types(config: RunConfig) -> None:
    for name, default in DEFAULTS.items():
        value, kind = getattr(config, name), type(default)
        if name == "prune_epoch" and value == TRAINED:
            continue
        if name == "probe_epochs" and type(value) is int:  # YAML reads one epoch as a number
            value = str(value)
            object.__setattr__(config, name, value)
        if kind is float and type(value) is int:  # 1 and 1.0 are the same width
            value = float(value)
            object.__setattr__(config, name, value)
        also = f" or {TRAINED!r}" if name == "prune_epoch" else ""
        require(type(value) is kind, name, value, NOUNS[kind] + also)
        require(kind is not float or isfinite(value), name, value, "finite")
