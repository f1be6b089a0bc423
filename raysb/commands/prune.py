"""`raysb prune`: remove the channels of a run's model that matter least."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raysb.commands.effect import DEVICE, OF_A_RUN, take_run
from raysb.commands.options import JSON, OK, Option, UsageError, Words

if TYPE_CHECKING:
    from raysb.prune_run import LayerSummary, Pruned, Shown, Size

HELP = """\
usage: raysb prune RUN_DIR --show [--figure FILE] [--criterion NAME] [--json]
       raysb prune RUN_DIR --amount A | --keep LAYER=N,... | --budget KIND=SHARE  [options]

Ranks the output channels of every layer of a run's model and removes the least important ones, with
all that belongs to them in the layers behind. Writes a directory with the small model, which
raysb.load_model and every other command take like that of any run.

  RUN_DIR               directory that `raysb train` named at its end, or an earlier pruned one
  --show                shapes and sorted importance of every layer; nothing is written
  --figure FILE         the same as a picture, FILE.png or .svg (needs matplotlib)
  --amount A            share of all channels that goes, in (0, 1); each layer keeps one, and two
                        in each group of a group norm
  --keep LAYER=N,...    output channels that stay of a layer, exactly; not fewer than that
  --budget KIND=SHARE   remove until this share remains of: parameters, macs, latency (measured
                        here, layer by layer), energy (by --energy-table)
  --criterion NAME      taylor_act (default), taylor, fisher, skeletonization, l1, l2, fpgm, sum,
                        mean, std, apoz, entropy, obd, obs, snip, random, or package.module:Class
  --criterion-args NAME=VALUE,...
                        its hyperparameters: beta=1e-9 of fisher, bins=64 of entropy, seed=1 ...
  --scope layer         take the amount from each layer; default: global, all channels in one order
  --raw                 compare layers by importance as it is, not divided by each layer's norm
  --round-to N          channels that stay of a layer are the nearest multiple of N, or all
  --protect NAME,...    layers that keep their outputs, by name or pattern: stem,stages.0.*
  --repair              fit the next layers to the outputs that they had, by least squares
  --rows N              training rows for statistics and repair (default: the statistics of
                        training, where train.statistics kept some, else 1024 rows)
  --latency-rows N      rows of a batch that is timed (default: 1)
  --energy-table FILE   TOML: mac = ..., byte = ..., and "<layer>.mac" where a layer differs
  --out DIR             directory to write (default: the next free runs/<run>-pruned-<n>)
  --json                one JSON object

Settings that have an effect, with the defaults of the run:

  --data.train, --data.test, --data.test_fraction    where the rows lie by now
  --data.inputs, --data.target, --data.id, --data.image_size, --data.mean, --data.std
  --model.name, --model.args, --model.norm, --model.num_classes
  --train.loss, --train.loss_args, --train.use_gpu, --train.num_threads

A model or a loss that is code of yours is imported only when it is named here:
--model.name package.module:function
"""

_WHOLE, _NUMBER = "a whole number", "a number"
OPTIONS = {
    "show": Option(),
    "figure": Option(value="FILE", needs="the name of a file"),
    "amount": Option(value="A", needs=_NUMBER),
    "keep": Option(value="LAYER=N", needs="a layer and a number"),
    "budget": Option(value="KIND=SHARE", needs="what is bounded, and a share"),
    "criterion": Option(value="NAME", needs="a name"),
    "criterion-args": Option(value="NAME=VALUE", needs="a name and a value"),
    "scope": Option(value="SCOPE", needs="global or layer"),
    "raw": Option(),
    "round-to": Option(value="N", needs=_WHOLE),
    "protect": Option(value="NAME", needs="names of layers"),
    "repair": Option(),
    "rows": Option(value="N", needs=_WHOLE),
    "latency-rows": Option(value="N", needs=_WHOLE),
    "energy-table": Option(value="FILE", needs="the name of a file"),
    "out": Option(value="DIR", needs="the name of a directory"),
    "json": JSON,
}
SETTINGS = (*OF_A_RUN, *DEVICE)
ONLY_SHOWN = ("figure",)
ONLY_PRUNED = (
    *("amount", "keep", "budget", "scope", "raw", "round-to", "repair", "latency-rows"),
    *("energy-table", "out"),
)
BLOCKS = "▁▂▃▄▅▆▇█"
BARS = 12  # columns of a layer's importance


def run(words: list[str]) -> int:
    """Show or prune; returns the exit code."""
    given, folder, flags = take_run(words, OPTIONS, SETTINGS, "pruning")
    show = given.has("show")
    _refuse_idle(given, show)
    chosen = _chosen(given)
    from raysb.prune_run import prune_run, show_run
    from raysb.pruning import Wanted

    rows, out = chosen.pop("rows", None), chosen.pop("out", None)
    wanted = Wanted(**chosen)
    if show:
        shown = show_run(folder, wanted, flags, rows=rows)
        _say(shown, given.has("json"), show_lines(shown, _draws_blocks()))
        if (file := given.get("figure")) is not None:
            _draw(shown, file)
        return OK
    pruned = prune_run(folder, wanted, flags, rows=rows, out=out)
    _say(pruned, given.has("json"), pruned_lines(pruned))
    return OK


def _say(found: Any, as_json: bool, lines: list[str]) -> None:
    sys.stdout.write((json.dumps(asdict(found)) if as_json else "\n".join(lines)) + "\n")


def _refuse_idle(given: Words, show: bool) -> None:
    """An option that would do nothing is refused."""
    idle = [name for name in (ONLY_PRUNED if show else ONLY_SHOWN) if given.has(name)]
    if idle:
        other = "does nothing with --show, which changes nothing" if show else "needs --show"
        raise UsageError(f"--{idle[0]} {other}")
    if not show and not any(given.has(name) for name in ("amount", "keep", "budget")):
        raise UsageError("nothing would change: give --amount, --keep or --budget; --show looks")


def _chosen(given: Words) -> dict[str, Any]:
    """The options as `Wanted` takes them."""
    chosen: dict[str, Any] = {"normalize": not given.has("raw"), "repair": given.has("repair")}
    for name in ("criterion", "energy-table", "out"):
        if (text := given.get(name)) is not None:
            chosen[name.replace("-", "_")] = text
    for name in ("rows", "latency-rows", "round-to"):
        if (text := given.get(name)) is not None:
            chosen[name.replace("-", "_")] = _number(int, text, f"--{name} {text}")
    if (text := given.get("amount")) is not None:
        chosen["amount"] = _number(float, text, f"--amount {text}")
    if (text := given.get("protect")) is not None:
        chosen["protect"] = tuple(text.split(","))
    if (text := given.get("scope")) is not None:
        if text not in ("global", "layer"):
            raise UsageError(f"--scope {text}: must be global or layer")
        chosen["scope"] = text
    if (text := given.get("keep")) is not None:
        pairs = [_pair(int, each, f"--keep {text}") for each in text.split(",")]
        chosen["keep"] = _once(pairs, f"--keep {text}")
    if (text := given.get("criterion-args")) is not None:
        pairs = [_pair(_value, each, f"--criterion-args {text}") for each in text.split(",")]
        chosen["criterion_args"] = _once(pairs, f"--criterion-args {text}")
    if (text := given.get("budget")) is not None:
        chosen["budget"] = _pair(float, text, f"--budget {text}")
    return chosen


def _pair(kind: Any, text: str, what: str) -> tuple[str, Any]:
    name, equals, value = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"{what}: must be a name, '=' and a number, e.g. conv1=8 or macs=.5")
    return name, _number(kind, value, what)


def _once(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{what}: gives {twice[0]} more than once")
    return dict(pairs)


def _value(text: str) -> Any:
    """A number where it is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(kind: Any, text: str, what: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{what}: {_WHOLE if kind is int else _NUMBER} is needed") from None


def _draws_blocks() -> bool:
    return "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()


def show_lines(shown: "Shown", blocks: bool = True) -> list[str]:
    """A line for each layer: its shape, share of the work, and importance, best channel first."""
    from raysb.layout import aligned

    heads = ["layer", "weight", "channels", "MACs", "largest", "median", "smallest"]
    rows = [(*heads, "sorted" if blocks else "", "tied to")]
    rows += [_row(layer, shown.size.macs, blocks) for layer in shown.layers]
    return [
        f"{shown.run}: {_words(shown.size)}",
        *_caution(shown.caution),
        "",
        f"importance by {shown.criterion}{_of(shown.statistics)}, higher stays:",
        *aligned(rows, right=range(2, 7)),
    ]


def _row(layer: "LayerSummary", macs: int, blocks: bool) -> tuple[str, ...]:
    shape = "x".join(map(str, layer.weight))
    head = (layer.name, shape, str(layer.weight[0]), f"{layer.macs / max(macs, 1):.1%}")
    values = layer.importance
    if values is None:
        return (*head, "", "", "", "stays", ", ".join(layer.tied))
    told = (values[0], values[len(values) // 2], values[-1])
    bars = _bars(values) if blocks else ""
    return (*head, *(f"{value:.3g}" for value in told), bars, ", ".join(layer.tied))


def _bars(values: tuple[float, ...]) -> str:
    """Sorted values as a row of blocks, from the smallest (or 0) to the largest."""
    low, high = min(values[-1], 0.0), values[0]
    shown = [values[i * (len(values) - 1) // max(BARS - 1, 1)] for i in range(BARS)]
    shown = list(values) if len(values) <= BARS else shown
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in shown)


def pruned_lines(pruned: "Pruned") -> list[str]:
    """What was removed, how small the model is now, and what to do next."""
    from raysb.layout import aligned, size

    changed = [(n, f"{a} -> {b}") for n, (a, b) in pruned.channels.items() if a != b]
    before, after = pruned.before, pruned.after
    factor = [
        ("parameters", before.parameters, after.parameters, "{:,}".format),
        ("weights", before.bytes, after.bytes, size),
        ("MACs a row", before.macs, after.macs, "{:,}".format),
    ]
    sizes = [(n, f"{w(a)} -> {w(b)}", f"{a / max(b, 1):.2f}x smaller") for n, a, b, w in factor]
    met = [f"{pruned.budget[0]}: {pruned.budget[1]:.1%} remains"] if pruned.budget else []
    out = pruned.out
    return [
        f"{pruned.run}: channels removed by {pruned.criterion}{_of(pruned.statistics)}",
        *_caution(pruned.caution),
        *aligned([("layer", "channels"), *changed]),
        *_at_least(pruned.least),
        "",
        *aligned(sizes),
        *met,
        f"written: {out}",
        f"next:    raysb eval {out}",
        f"rebirth: raysb train --config {out}/config.toml --model.plan {out}/plan.safetensors "
        f"--model.init {out}/model.safetensors --train.lr {pruned.rebirth_lr:g}",
    ]


def _of(statistics: str) -> str:
    return f", statistics of {statistics}" if statistics else ""


def _at_least(layers: tuple[str, ...]) -> list[str]:
    if not layers:
        return []
    return [f"fewest that may stay: {', '.join(layers)}; --scope layer or --protect spares them"]


def _caution(text: str) -> list[str]:
    return [f"caution: {text}"] if text else []


def _words(size: "Size") -> str:
    from raysb.layout import size as in_bytes

    return f"{size.parameters:,} parameters, {in_bytes(size.bytes)}, {size.macs:,} MACs a row"


def _draw(shown: "Shown", file: str) -> None:
    from raysb.prune.figure import draw_importance

    layers = {layer.name: layer.importance for layer in shown.layers if layer.importance}
    draw_importance(layers, f"{shown.run}: importance by {shown.criterion}", file)
    sys.stderr.write(f"written: {file}\n")
