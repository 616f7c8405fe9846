"""Every claim of both papers, what was measured of it, and a verdict that is computed."""

from __future__ import annotations

import statistics
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rpg_bench.report import (
    accuracy_vs_dof,
    convergence,
    deeper_at_same_dof,
    destructive_sharing,
    generalisation,
    global_vs_local,
    imagenet,
    lors_deit,
    small_files,
)
from rpg_bench.report.cases import top1
from rpg_bench.report.contrasts import Contrast, case_where
from rpg_bench.report.effects import Effect, effect, effect_over
from rpg_bench.report.experiments import read_experiment, recorded
from rpg_bench.report.page import Page, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published
from rpg_bench.report.records import Records

NAME = "claims"
HOLDS, FAILS, FEW, NOT_RUN = "holds", "does not hold", "not enough runs", "not run"
INTRODUCTION = f"""\
Every claim of the RPG and LORS papers. The verdict is computed from the records: of a difference, *{HOLDS}* where its
95 % interval over seeds (Welch) lies on the claimed side and *{FAILS}* where it lies on the other;
*{FEW}* where it covers both, or is not known because there are less than two seeds; *{NOT_RUN}* without
records or without an experiment. A verdict is about the protocol named with it."""
PROTOCOLS = "Runs: of each side of a difference, seed by seed. The protocols, which are not the papers':"
TOLERANCE = 1.0  # points of top-1 that "kept" may lose
STRAIGHT = 0.95  # R² from which points lie on a line
LEAST_POINTS = 7  # budgets that a line needs


@dataclass(frozen=True)
class Finding:
    """What the records say of a claim."""

    measured: str
    runs: str
    verdict: str


NOTHING = Finding("", "", NOT_RUN)


@dataclass(frozen=True)
class Claim:
    """One statement, by its published figure, and how it is tested."""

    published: str  # id
    statement: str
    experiment: str = ""
    test: Callable[[Records], Finding] = lambda _: NOTHING
    trained: bool = True  # false where nothing but time is measured


def verdict_on(found: Effect | None, bound: float = 0.0) -> str:
    """Whether the difference is above the bound.

    >>> verdict_on(Effect(2.0, 1.0, 3.0, (3, 3))), verdict_on(Effect(2.0, -1.0, 5.0, (3, 3))), verdict_on(None)
    ('holds', 'not enough runs', 'not run')
    """
    if found is None:
        return NOT_RUN
    if found.low > bound:
        return HOLDS
    return FAILS if found.high < bound else FEW


def all_of(verdicts: Sequence[str]) -> str:
    """The verdict on a claim that is tested in several ways: it holds if all say so, and fails if one does.

    >>> all_of([HOLDS, HOLDS]), all_of([HOLDS, FAILS]), all_of([HOLDS, NOT_RUN]), all_of([NOT_RUN, NOT_RUN])
    ('holds', 'does not hold', 'not enough runs', 'not run')
    """
    if FAILS in verdicts:
        return FAILS
    if set(verdicts) == {HOLDS}:
        return HOLDS
    return NOT_RUN if set(verdicts) == {NOT_RUN} else FEW


def _contrasts(chosen: Callable[[], Sequence[Contrast]], bound: float = 0.0) -> Callable[[Records], Finding]:
    """A claim that each of these differences is above the bound."""

    def test(records: Records) -> Finding:
        contrasts = chosen()
        effects = [contrast.effect(records) for contrast in contrasts]
        known = [(contrast, found) for contrast, found in zip(contrasts, effects, strict=True) if found]
        measured = "; ".join(f"{contrast.label}: {found} points" for contrast, found in known)
        runs = "; ".join(f"{found.counts[0]}, {found.counts[1]}" for _, found in known)
        return Finding(measured, runs, all_of([verdict_on(found, bound) for found in effects]))

    return test


def _about(name: str) -> Callable[[], list[Contrast]]:
    """The differences of `global_vs_local` that a published figure belongs to."""
    return lambda: [contrast for contrast in global_vs_local.contrasts() if contrast.published == name]


def _log_linear(records: Records) -> Finding:
    cases = read_experiment(accuracy_vs_dof.EXPERIMENT)
    measured, verdicts, runs = [], [], []
    for network, title in accuracy_vs_dof.NETWORKS.items():
        fit = accuracy_vs_dof.ring_fit(cases, records, network)
        if fit is None:
            verdicts.append(NOT_RUN)
            continue
        span = f"{fit.low:,} to {fit.high:,}"
        measured.append(f"{title}: R² {fit.r_squared:.3f}, {fit.slope:.2f} points per decade, {span}")
        runs.append(f"{fit.points} budgets")
        enough = fit.points >= LEAST_POINTS
        verdicts.append((HOLDS if fit.r_squared >= STRAIGHT else FAILS) if enough else FEW)
    return Finding("; ".join(measured), "; ".join(runs), all_of(verdicts))


def _sooner(records: Records) -> Finding:
    """Epochs until the ring and the dense network of its size are at half of the dense one's final top-1."""
    cases = read_experiment(convergence.EXPERIMENT)
    measured, verdicts, runs = [], [], []
    for budget in dict.fromkeys(case.config.dof for case in cases):
        curves = {
            case.config.sharing.name: [record.curve for record in recorded(case, records)]
            for case in cases
            if case.config.dof == budget
        }
        if not all(curves.values()):
            verdicts.append(NOT_RUN)
            continue
        level = statistics.fmean(curve[-1] for curve in curves["none"]) / 2
        epochs = {
            name: [float(convergence.epochs_until(curve, level) or len(curve) + 1) for curve in found]
            for name, found in curves.items()
        }
        found = effect(epochs["none"], epochs["rpg_global"])
        assert found is not None
        measured.append(f"{budget:,}: dense - ring {found} epochs to {level:.1f} %")
        runs.append(f"{found.counts[0]}, {found.counts[1]}")
        verdicts.append(verdict_on(found))
    return Finding("; ".join(measured), "; ".join(runs), all_of(verdicts))


def _corrupted(records: Records) -> Finding:
    """Top-1 on corrupted images of the ring and of the dense network of its size, at each budget of both."""
    measured, verdicts, runs = [], [], []
    for budget, ring, dense in generalisation.pairs():
        values = [generalisation.corrupted_values(case, records) for case in (ring, dense)]
        found = effect(*values)
        verdicts.append(verdict_on(found))
        if found:
            measured.append(f"{budget:,}: ring - dense {found} points")
            runs.append(f"{found.counts[0]}, {found.counts[1]}")
    return Finding("; ".join(measured), "; ".join(runs), all_of(verdicts))


def _encoder(records: Records) -> Finding:
    """The encoder's parameters at the paper's ranks: slots, and the biases and norms that stay private."""
    case = lors_deit.contrasts()[0].first
    counted = {record.dof + lors_deit.BIASES_AND_NORMS for record in recorded(case, records)}
    if not counted:
        return NOTHING
    wanted = int(published()["lors-deit-dof"].value)
    return Finding(", ".join(f"{count:,}" for count in counted), "", HOLDS if counted == {wanted} else FAILS)


def _reaches(values: Sequence[float], wanted: float, text: str) -> Finding:
    """A published top-1 that is reached within the tolerance."""
    found = effect_over(values, wanted)
    if found is None:
        return NOTHING
    return Finding(f"{found} points from {text}", str(found.counts[0]), verdict_on(found, -TOLERANCE))


def _headline(name: str) -> Callable[[Records], Finding]:
    """A published top-1 on ImageNet, or share of the dense top-1."""

    def test(records: Records) -> Finding:
        (headline,) = [headline for headline in imagenet.headlines() if headline.published == name]
        values, row = top1(headline.case, records).values, published()[name]
        if row.kind != "fraction_of_dense":
            return _reaches(values, float(row.value), f"{row.value} %")
        dense = top1(headline.dense, records).values
        if not dense:
            return NOTHING
        return _reaches(values, float(row.value) * statistics.fmean(dense), f"{row.value} of dense")

    return test


def _cifar_headline(records: Records) -> Finding:
    """What RPG publishes of 8,000 numbers, on the smaller network: the source names none."""
    case = case_where(read_experiment(accuracy_vs_dof.EXPERIMENT), "sharing=rpg_global", "dof=8k")
    value = published()["rpg-c100-8k"].value
    return _reaches(top1(case, records).values, float(value), f"{value} %")


def _pruned_and_quantised(records: Records) -> Finding:
    """What rings lose at 8 bits, whole and halved, each against its own run; and the time of the 8-bit network."""
    measured, verdicts, runs = [], [], []
    for prune, activations in ((0.0, 32), (0.5, 32), (0.0, 8)):
        for title, lost in small_files.losses(records, bits=8, prune=prune, activations=activations).items():
            found = effect_over(lost, 0.0)
            assert found is not None
            how = ", run in 8 bits" if activations == 8 else ""
            measured.append(f"{title}, {prune:.0%} pruned{how}: {found} points")
            runs.append(str(found.counts[0]))
            verdicts.append(verdict_on(found, -TOLERANCE))
    ratio = records.deployed.get(small_files.INT8_RATIO)
    if ratio is not None:
        measured.append(f"8-bit network: {ratio:.2f} x the time of float32, compiled alike")
    if verdicts:
        verdicts.append(NOT_RUN if ratio is None else HOLDS if ratio < 1 else FAILS)
    return Finding("; ".join(measured), "; ".join(runs), all_of(verdicts or [NOT_RUN]))


def _little_compute(records: Records) -> Finding:
    """Time of the folded network, which has the dense one's layers."""
    ratio = records.deployed.get(small_files.LORS_RATIO)
    if ratio is None:
        return NOTHING
    unfolded = records.deployed.get(small_files.UNFOLDED_RATIO)
    more = "" if unfolded is None else f"; not folded {unfolded:.2f} x"
    return Finding(f"{ratio:.2f} x{more}", "", HOLDS if ratio <= small_files.LITTLE_MORE else FAILS)


CLAIMS = (
    Claim(
        "rpg-log-linear",
        f"accuracy grows log-linearly with DoF (here: R² of at least {STRAIGHT} over {LEAST_POINTS} budgets)",
        accuracy_vs_dof.EXPERIMENT,
        _log_linear,
    ),
    Claim(
        "rpg-c100-8k",
        f"8,000 numbers reach 36 % on CIFAR-100 (network not named; here: ResNet18, within {TOLERANCE:g} point)",
        accuracy_vs_dof.EXPERIMENT,
        _cifar_headline,
    ),
    Claim(
        "rpg-local-vs-dense",
        "four local rings beat a dense network of as many parameters",
        global_vs_local.EXPERIMENT,
        _contrasts(_about("rpg-local-vs-dense")),
    ),
    Claim(
        "rpg-global-vs-dense",
        "one global ring beats a dense network of as many parameters",
        global_vs_local.EXPERIMENT,
        _contrasts(_about("rpg-global-vs-dense")),
    ),
    Claim(
        "rpg-global-vs-local",
        "one global ring beats local rings",
        global_vs_local.EXPERIMENT,
        _contrasts(_about("rpg-global-vs-local")),
    ),
    Claim(
        "rpg-r34-over-r18",
        "at the same DoF the larger unpacked network is better",
        deeper_at_same_dof.EXPERIMENT,
        _contrasts(deeper_at_same_dof.contrasts),
    ),
    Claim(
        "rpg-destructive",
        "permutation and sign flips beat plain recurrent sharing",
        destructive_sharing.EXPERIMENT,
        _contrasts(lambda: destructive_sharing.contrasts()[:1]),
    ),
    Claim(
        "rpg-convergence", "a ring converges faster than a dense network of its size", convergence.EXPERIMENT, _sooner
    ),
    Claim(
        "rpg-ood",
        "higher accuracy out of distribution than dense (here: on corrupted images, at the same DoF)",
        generalisation.EXPERIMENT,
        _corrupted,
    ),
    Claim(
        "lors-deit-encoder",
        f"LORS keeps the dense accuracy (here: loses less than {TOLERANCE:g} point) at half of the encoder",
        lors_deit.EXPERIMENT,
        _contrasts(lambda: lors_deit.contrasts()[:1], bound=-TOLERANCE),
    ),
    *(
        Claim(name, f"{statement}, ImageNet (here: within {TOLERANCE:g} point)", imagenet.EXPERIMENT, _headline(name))
        for name, statement in {
            "rpg-in-r18-1layer": "ResNet18 from as many numbers as one layer has",
            "rpg-in-r18-36k": "ResNet18 from 36,864 numbers",
            "rpg-in-r34-400x": "ResNet34 from more than 400 times fewer numbers",
            "rpg-in-r34-half": "ResNet34 from half of its weights equals the dense one",
            "rpg-in-r18-18pct": "ResNet18 keeps 96 % of the dense accuracy at 18 %",
            "rpg-in-r34-0.25pct": "ResNet34 keeps 52 % of the dense accuracy at 0.25 %",
        }.items()
    ),
    Claim(
        "rpg-prune-quantize",
        "a ring can be pruned and quantised for a gain at run time (here: at 8 bits, whole, with half of its "
        f"entries, and run in 8 bits, it loses less than {TOLERANCE:g} point; in 8 bits it runs faster, both compiled)",
        small_files.EXPERIMENT,
        _pruned_and_quantised,
    ),
    Claim(
        "lors-compute",
        "little more compute at inference (here: DeiT-Tiny with its residuals folded takes at most "
        f"{small_files.LITTLE_MORE:g} times as long as dense)",
        small_files.EXPERIMENT,
        _little_compute,
        trained=False,
    ),
    Claim("lors-deit-dof", "the encoder has 2,536,704 parameters at base rank 32", lors_deit.EXPERIMENT, _encoder),
)
# What the papers say of data, tasks or runs that no experiment here has yet.
UNTESTED = {
    "rpg-vs-mdeq-c10": "beats the implicit MDEQ on CIFAR-10",
    "rpg-vs-mdeq-c100": "beats the implicit MDEQ on CIFAR-100",
    "rpg-vs-mdeq-time": "is many times faster than MDEQ at inference",
    "rpg-pose": "sub-networks of pose estimation share a ring better than their weights",
    "rpg-multitask": "sub-networks of multi-task regression share a ring better than their weights",
    "lors-adamixer-decoder": "AdaMixer's decoder keeps its AP with 70 % fewer parameters",
    "lors-adamixer-model": "AdaMixer keeps its AP with half of the model's parameters",
}


EXPERIMENTS = tuple(dict.fromkeys(claim.experiment for claim in CLAIMS))


def make(records: Records) -> Page:
    """A row for each claim; their protocols are told once each."""
    rows: list[list[str]] = []
    protocols: dict[str, str] = {}
    verdicts = []
    for claim in (*CLAIMS, *(Claim(key, statement) for key, statement in UNTESTED.items())):
        row, found = published()[claim.published], claim.test(records)
        key = ""
        if claim.experiment and claim.trained:
            how = protocol(read_experiment(claim.experiment)[0])
            key = protocols.setdefault(how, string.ascii_uppercase[len(protocols)])
        experiment = f"`{claim.experiment}`" if claim.experiment else "none yet"
        said = f"{row.text} ({row.paper})"
        rows.append([claim.statement, f"**{found.verdict}**", found.measured, found.runs, said, experiment, key])
        verdicts.append(found.verdict)
    heads = ("claim", "verdict", "measured [95 % interval]", "runs", "published", "experiment", "protocol")
    counted = ", ".join(f"*{verdict}* {verdicts.count(verdict)}" for verdict in (HOLDS, FAILS, FEW, NOT_RUN))
    trained = [[key, how] for how, key in protocols.items()]
    return Page(
        NAME,
        "Claims",
        [
            INTRODUCTION,
            f"The {len(verdicts)} claims: {counted}.",
            Table(heads, rows, prose=True),
            PROTOCOLS,
            Table(("protocol", "how the runs were trained"), trained, "protocols", prose=True),
        ],
    )
