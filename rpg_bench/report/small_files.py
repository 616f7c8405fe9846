"""Networks as files: accuracy against bytes, pruned and quantised; and what they cost to run."""

from __future__ import annotations

from collections.abc import Sequence

from rpg_bench.compact.settings import Settings
from rpg_bench.report.cases import NETWORKS
from rpg_bench.report.compressions import Compression, described
from rpg_bench.report.experiments import read_experiment, recorded
from rpg_bench.report.page import Cell, Line, Measured, Page, Plot, Table
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Record, Records
from rpg_bench.report.style import DASHES, short, title

EXPERIMENT = "small_files"
PUBLISHED = ("rpg-prune-quantize", "lors-compute")
INTRODUCTION = """\
Each row is one compact file (`python -m rpg_bench.compress`), measured as it is read back, on all test images, in the
precision of its run; where it *runs in int8*, as the ordinary network with 8-bit weights per channel and 8-bit
activations, whose ranges are those of 512 training images (torchao). Bits are those of each free and private number;
norms and biases keep 8 at least. Pruned is the share of the free numbers that magnitude pruning took away; survivors'
positions are in the file. Without fine-tuning, 1,024 training images give batch norms' statistics and decide how scales
are found. Bytes are the whole file: numbers, scales, masks, and the recipe to rebuild the network. Bits per weight are
those of the file for each weight of the dense network; DoF bits are free numbers x width + scales + masks; zstd is the
entropy-coded file, level 19."""
RUNNING = """\
One image and a batch of 64 through networks for 32x32 pixels, in one process and in turn; times as a ratio to the dense
network, lower is faster. What else the machine did shows in the spread (`results/benchmarks/summary.md`). A
materialised ring is an ordinary network. `int8` has 8-bit weights per channel and 8-bit activations (torchao,
compiled); what it gains beyond being compiled is its ratio to `compiled`. Residuals of LORS fold into the weights;
*not folded* is the network as it is trained."""
HEADS = (
    "network",
    "DoF",
    "total",
    "bits",
    "pruned",
    "fine-tuned",
    "runs in",
    "top-1, %",
    "change, points",
    "bytes",
    "zstd",
    "bits per weight",
    "DoF bits",
)
# Figures of `benchmarks deployed`.
INT8_RATIO = "resnet18 batch 64 int8 to compiled"
LORS_RATIO = "deit_tiny batch 64 lors folded"
UNFOLDED_RATIO = "deit_tiny batch 64 lors not folded"
LITTLE_MORE = 1.1  # times the dense network


def make(records: Records) -> Page:
    """The files of the experiment's runs."""
    groups = _groups(records)
    return Page(
        EXPERIMENT,
        "Small files",
        [
            INTRODUCTION,
            Plot(
                EXPERIMENT,
                "accuracy against bytes",
                _lines(groups, records),
                "bytes of the file",
                "test top-1, %",
                budgets=True,
            ),
            _table([row for runs in groups for row in _rows(runs, records)], "files"),
            "# Running them",
            RUNNING,
            _times(records),
            "# Published",
            published_table(list(PUBLISHED)),
        ],
    )


def losses(records: Records, *, bits: int, prune: float, activations: int = 32) -> dict[str, list[float]]:
    """Points that rings lose at so many bits and pruned so far, without fine-tuning, seed by seed; by network."""
    wanted = Settings(bits=bits, prune=prune, activations=activations)
    found = {}
    for runs in _groups(records):
        if runs[0].values["config"]["sharing"]["name"] == "rpg_global":
            chosen = [made.lost for made in _made_of(runs, records) if made.settings == wanted]
            if chosen:
                found[_title(runs[0])] = chosen
    return found


def _groups(records: Records) -> list[list[Record]]:
    """The runs of each case of the experiment of which there is a file, and others of which there is one."""
    cases = [recorded(case, records) for case in read_experiment(EXPERIMENT)]
    parents = {made.parent.name for made in records.compressions}
    named = {run.name for runs in cases for run in runs}
    others = [[records.found[name]] for name in sorted(parents - named)]
    return [runs for runs in (*cases, *others) if any(run.name in parents for run in runs)]


def _made_of(runs: Sequence[Record], records: Records) -> list[Compression]:
    names = {run.name for run in runs}
    return [made for made in records.compressions if made.parent.name in names]


def _title(run: Record) -> str:
    config = run.values["config"]
    return f"{config['backbone']['name']} `{config['sharing']['name']}` {run.dof:,}"


def _by_settings(runs: Sequence[Record], records: Records) -> dict[tuple[object, ...], list[Compression]]:
    """The files that differ in nothing but the seed: the wider and less pruned first."""
    found: dict[tuple[object, ...], list[Compression]] = {}
    for made in _made_of(runs, records):
        settings = made.settings
        kind = (-settings.bits, settings.prune, described(settings), -settings.activations)
        found.setdefault(kind, []).append(made)
    return dict(sorted(found.items()))  # type: ignore[type-var]  # all of one type in each place


def _rows(runs: Sequence[Record], records: Records) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    config = runs[0].values["config"]
    name = f"{config['backbone']['name']} `{config['sharing']['name']}`, {config['recipe']['name']}"
    for made in _by_settings(runs, records).values():
        first, settings = made[0], made[0].settings
        rows.append(
            [
                name,
                f"{runs[0].dof:,}",
                f"{runs[0].total:,}",
                str(settings.bits),
                f"{settings.prune:.0%}",
                described(settings),
                "int8" if settings.activations == 8 else config["recipe"]["precision"],
                Measured([one.top1 for one in made]),
                Measured([one.lost for one in made]),
                f"{first.bytes:,}",
                f"{first.zstd_bytes:,}",
                f"{first.bits_per_weight:.3f}",
                f"{first.dof_bits:,}",
            ]
        )
    return rows


def _table(rows: list[list[Cell]], name: str) -> Table:
    return Table(HEADS, rows, name)


def _lines(groups: Sequence[Sequence[Record]], records: Records) -> list[Line]:
    """Of each network the best file of at most so many bytes; of one scheme, each network has dashes of its own."""
    lines: list[Line] = []
    for runs in groups:
        points = [(made.bytes, made.top1) for made in _made_of(runs, records) if made.parent.name == runs[0].name]
        best = [(x, y) for x, y in sorted(points) if all(y >= other for size, other in points if size <= x)]
        if best:
            config = runs[0].values["config"]
            scheme = config["sharing"]["name"]
            before = sum(line.scheme == scheme for line in lines)
            label = f"{title(scheme)} {short(runs[0].dof)}"
            if config["backbone"]["name"] != "resnet18":
                label += f", {NETWORKS.get(config['backbone']['name'], config['backbone']['name'])}"
            xs, ys = [float(x) for x, _ in best], [y for _, y in best]
            lines.append(Line(label, scheme, xs, ys, dashes=DASHES[before % len(DASHES)]))
    return lines


def _times(records: Records) -> Table:
    rows: list[list[Cell]] = [[name, f"{value:.2f}"] for name, value in records.deployed.items()]
    return Table(("network", "times dense"), rows, "times")
