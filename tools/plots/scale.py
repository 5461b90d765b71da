#!/usr/bin/env python3
"""scale.py ENGINE DIR: the plots of docs/scale.md, as SVG files in DIR, from
what "ENGINE plan --json" and "ENGINE plan --simulate --json" print.  Python's
library alone."""

import json
import subprocess
import sys

W, H = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 40, 46
COLORS = ["#1f5fa8", "#d1662b", "#4c8f4c", "#8a5aa8"]


def plan(engine, *args):
    out = subprocess.run([engine, "plan", "--json", *args], check=True,
                         stdout=subprocess.PIPE).stdout
    return json.loads(out)


def nice(top):
    """the smallest of 1, 2, 2.5, 5 by a power of ten that is not below"""
    p = 1.0
    while p * 10 <= top:
        p *= 10
    while p > top:
        p /= 10
    return next(p * m for m in (1, 2, 2.5, 5, 10) if p * m >= top)


def number(v):
    return f"{v:g}" if v < 10000 else f"{v / 1000:g}k"


class Plot:
    """lines and bars over one scale of y, from 0"""

    def __init__(self, title, y_name, top):
        self.top = nice(top)
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{W}" '
            f'height="{H}" viewBox="0 0 {W} {H}" font-family="sans-serif" '
            f'font-size="12">',
            f'<rect width="{W}" height="{H}" fill="#fff"/>',
            f'<text x="{LEFT}" y="18" font-size="14" font-weight="bold">'
            f'{title}</text>',
            f'<text x="14" y="{(TOP + H - BOTTOM) / 2:.0f}" '
            f'text-anchor="middle" transform="rotate(-90 14 '
            f'{(TOP + H - BOTTOM) / 2:.0f})">{y_name}</text>']
        self.legend = LEFT
        for i in range(6):
            v = self.top * i / 5
            self.parts.append(
                f'<path d="M{LEFT} {self.y(v):.1f}H{W - RIGHT}" '
                f'stroke="#ddd"/><text x="{LEFT - 6}" y="{self.y(v) + 4:.1f}"'
                f' text-anchor="end">{number(v)}</text>')

    def y(self, v):
        return H - BOTTOM - (H - TOP - BOTTOM) * min(v, self.top) / self.top

    def named(self, name, color):
        self.parts.append(
            f'<rect x="{self.legend}" y="26" width="10" height="10" '
            f'fill="{color}"/><text x="{self.legend + 14}" y="35">{name}'
            f'</text>')
        self.legend += 24 + 7 * len(name)

    def bars(self, names, series):
        """series: (name, values); None: no bar"""
        n = len(names)
        each = (W - LEFT - RIGHT) / n
        wide = each * 0.8 / len(series)
        for k, (name, values) in enumerate(series):
            self.named(name, COLORS[k])
            for i, v in enumerate(values):
                if v is None:
                    continue
                x = LEFT + each * (i + 0.1) + wide * k
                text = f"{v:.3g}" if v < 100 else f"{v:.0f}"
                self.parts.append(
                    f'<rect x="{x:.1f}" y="{self.y(v):.1f}" '
                    f'width="{wide - 1:.1f}" '
                    f'height="{H - BOTTOM - self.y(v):.1f}" '
                    f'fill="{COLORS[k]}"/><text x="{x + wide / 2:.1f}" '
                    f'y="{self.y(v) - 3:.1f}" text-anchor="middle" '
                    f'font-size="9">{text}</text>')
        for i, name in enumerate(names):
            self.parts.append(
                f'<text x="{LEFT + each * (i + 0.5):.1f}" '
                f'y="{H - BOTTOM + 16}" text-anchor="middle">{name}</text>')

    def lines(self, x_name, x_top, series):
        """series: (name, [(x, y)])"""
        def x(v):
            return LEFT + (W - LEFT - RIGHT) * v / x_top
        for k, (name, points) in enumerate(series):
            self.named(name, COLORS[k])
            d = "L".join(f"{x(a):.1f} {self.y(b):.1f}" for a, b in points)
            self.parts.append(f'<path d="M{d}" fill="none" '
                              f'stroke="{COLORS[k]}" stroke-width="2"/>')
        for i in range(7):
            self.parts.append(
                f'<text x="{x(x_top * i / 6):.1f}" y="{H - BOTTOM + 16}" '
                f'text-anchor="middle">{number(x_top * i / 6)}</text>')
        self.parts.append(f'<text x="{(LEFT + W - RIGHT) / 2:.0f}" '
                          f'y="{H - 10}" text-anchor="middle">{x_name}'
                          f'</text>')

    def write(self, path):
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(self.parts) + "\n</svg>\n")


def middle(rows, key, factor=1.0):
    return [((r["from"] + r["to"]) / 2, r[key] * factor) for r in rows]


def gain(engine, out):
    ways = {"tensor": "TP%d", "hybrid": "TP%d+DP", "expert": "EP%d"}
    names, series = [], []
    for hw in ("h800", "h200"):
        values = {}
        for f in plan(engine, "--hardware", hw)["fleets"]:
            name = ways[f["way"]] % f["devices"]
            name = name.replace("TP16", "TP").replace("TP8", "TP")
            values[name] = f["rate"] or None
            if name not in names:
                names.append(name)
        series.append((hw.upper(), values))
    series = [(n, [v.get(i) for i in names]) for n, v in series]
    p = Plot("DeepSeek-V3, 4,989 tokens of context, 50 ms a token", "tokens/s a GPU",
             max(v for _, s in series for v in s if v))
    p.bars(names, series)
    p.write(f"{out}/gain.svg")


def fit(engine, out):
    names, values = [], []
    for f in plan(engine)["fleets"]:
        names.append({"tensor": "TP%d", "hybrid": "TP%d+DP",
                      "expert": "EP%d"}[f["way"]] % f["devices"])
        values.append(f["fit"])
    p = Plot("why: sequences of 4,989 tokens that fit, H800",
             "sequences a GPU", max(values))
    p.bars(names, [("fit in what weights leave", values)])
    p.write(f"{out}/fit.svg")


def balance(engine, out):
    skews = plan(engine)["skews"]
    p = Plot("largest load of a rank over the mean, 256 experts, 32 "
             "replicas", "max / mean", max(s["plain"] for s in skews))
    p.bars([f"EP{s['ranks']}" for s in skews],
           [("one after the other", [s["plain"] for s in skews]),
            ("placed by load", [s["placed"] for s in skews])])
    p.write(f"{out}/balance.svg")


FLEET = ["--simulate", "--ep", "32", "--prompts-apart", "--spread", "0.5",
         "--prompt-len", "2000", "--output", "200", "--max-running", "64",
         "--rows", "60", "--seed", "1"]


def surge(engine, out):
    r = plan(engine, *FLEET, "--seconds", "120", "--surge", "40:20:40",
             "--may", "20", "--queue", "512")
    rows = r["rows"]
    p = Plot("40 times the requests for 20 seconds (EP32, simulated)",
             "seconds until the first token",
             max(x["first_p99"] for x in rows))
    p.lines("seconds; of those who were let in", 120,
            [("median", middle(rows, "first_p50")),
             ("99 %", middle(rows, "first_p99"))])
    p.write(f"{out}/surge.svg")
    return r


def death(engine, out):
    r = plan(engine, *FLEET, "--seconds", "120", "--fail", "40:5:30",
             "--fail", "44:13:30")
    rows = r["rows"]
    p = Plot("two of 32 ranks die at 40 and 44 s, back 30 s later "
             "(simulated)", "tokens/s a GPU", max(x["rate"] for x in rows))
    p.lines("seconds", 120, [("made", middle(rows, "rate")),
                             ("skew x 100", middle(rows, "skew", 100))])
    p.write(f"{out}/death.svg")
    return r


def drift(engine, out):
    runs = []
    for name, every in (("never placed anew", "0"), ("every 10 s", "10")):
        r = plan(engine, *FLEET, "--seconds", "120", "--rebalance", every,
                 "--experts", "zipf:0.8", "--drift", "120")
        runs.append((name, middle(r["rows"], "skew")))
    p = Plot("experts by Zipf's law (0.8) that change places (EP32, "
             "simulated)", "max / mean",
             max(y for _, s in runs for _, y in s))
    p.lines("seconds", 120, runs)
    p.write(f"{out}/drift.svg")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    engine, out = sys.argv[1:]
    gain(engine, out)
    fit(engine, out)
    balance(engine, out)
    drift(engine, out)
    for name, run in (("surge", surge), ("death", death)):
        r = run(engine, out)
        print(name, json.dumps({k: r[k] for k in
                                ("fleet", "all", "experts", "moved",
                                 "straggling")}))


main()
