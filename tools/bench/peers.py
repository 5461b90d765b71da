#!/usr/bin/env python3
"""Speed of this engine beside other programs, in one run on one machine.

    shapes deepseek-v2-lite q4_0 m.gguf >m.info
    moe-engine quantize -m m.gguf -o m
    peers.py --gguf m.gguf --info m.info --ours m \\
             --llama PATH/llama-batched-bench --ik PATH/llama-batched-bench

Programs take turns, round after round, with a probe of the read bandwidth
before each test; what is printed are medians over the rounds and their
ratios.  Every program's first turn is preceded by one that does not count, so
that files are in the page cache.  Without a model at hand, --shape NAME and
--type TYPE make one in --dir first (docs/benchmarks/cpu.md).

The peers' batched-bench must feed random tokens to every sequence, as
llama.cpp's does: one that repeats a token sends all rows to the same experts.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build/bench"


def compiled(name, *flags):
    out = BUILD / name
    source = HERE / f"{name}.c"
    if not out.exists() or out.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-O3", "-march=native",
                        "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE",
                        "-pthread", "-o", str(out), str(source), *flags],
                       check=True)
    return str(out)


def run(args):
    """Output and the most memory the program had resident, in bytes."""
    p = subprocess.Popen(args, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    text = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        sys.exit(f"{' '.join(args)}: exit code {p.returncode}\n"
                 + text[-2000:])
    return text, usage.ru_maxrss * 1024


def rows(text, columns):
    """The numbers of a Markdown table's rows of so many columns."""
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) == columns and all(
                re.fullmatch(r"[0-9.]+", c) for c in cells):
            yield [float(c) for c in cells]


# ---- programs: a test is (prompt, tokens, most streams) ----


class Ours:
    name = "ngx_moe"

    def __init__(self, a):
        self.args = [a.engine, "bench", "-m", a.ours or a.gguf, "--threads",
                     str(a.threads), "--kv-format", "bf16"]

    def test(self, prompt, tokens, most):
        text, rss = run(self.args + ["--prompt", str(prompt), "--tokens",
                                     str(tokens), "--batch", str(most)])
        return ([(int(n), pre, dec) for n, pre, dec, _ in rows(text, 4)],
                rss)


class Llama:
    def __init__(self, name, program, a, more):
        self.name = name
        self.args = [program, "-m", a.gguf, "-t", str(a.threads), "-tb",
                     str(a.threads), "-b", "2048", "-ub", "512", *more]

    def test(self, prompt, tokens, most):
        streams, n = [], 1
        while n <= most:
            streams.append(str(n))
            n *= 2
        # 256 a sequence is what it rounds a context up to
        context = -(-(prompt + tokens) // 256) * 256 * most
        text, rss = run(self.args + [
            "-c", str(context), "-npp", str(prompt), "-ntg", str(tokens),
            "-npl", ",".join(streams)])
        return ([(int(r[2]), r[5], r[7]) for r in rows(text, 10)], rss)


# ---- measuring ----


def tests_of(a):
    """Prompt, tokens and streams of a program's calls, and what of each call
    is a result: (name, streams, column 1: prefill, 2: decode)."""
    short = 16
    out = [(short, a.tokens, a.streams,
            [(f"decode, {n} together" if n > 1 else "decode, 1 stream", n, 2)
             for n in (1, 2, 4, 8, 16, 32, 64) if n <= a.streams])]
    for n in a.prompts:
        out.append((n, a.tokens, 1, [(f"prefill of {n}", 1, 1),
                                     (f"decode after {n}", 1, 2)]))
    return out


def turns(a, programs):
    """Program and round, in order; round -1 does not count."""
    if a.apart:
        for p in programs:
            yield from ((p, n) for n in range(-1, a.rounds))
        return
    for n in range(-1, a.rounds):
        k = max(n, 0) % len(programs)
        yield from ((p, n) for p in programs[k:] + programs[:k])


def measure(a, programs, probe):
    got = {p.name: {} for p in programs}
    memory, bandwidth = {}, []
    for p, n in turns(a, programs):
        if n < 0:
            p.test(16, 4, 1)
            continue
        for prompt, tokens, most, results in tests_of(a):
            # the longest are slow and steady: fewer rounds
            if prompt > 1024 and n >= max(1, a.rounds // 3):
                continue
            bandwidth.append(float(run([probe, str(a.threads)])[0]))
            table, rss = p.test(prompt, tokens, most)
            memory[p.name] = max(memory.get(p.name, 0), rss)
            for name, streams, column in results:
                value = [r[column] for r in table if r[0] == streams]
                if len(value) != 1:
                    sys.exit(f"{p.name}: no result for {name}")
                got[p.name].setdefault(name, []).append(value[0])
        print(f"  round {n + 1}, {p.name}: {bandwidth[-1]:.0f} GB/s beside",
              file=sys.stderr)
    return got, memory, bandwidth


def first_token(a):
    for f in pathlib.Path(a.ours).iterdir():
        subprocess.run(["cat", str(f)], stdout=subprocess.DEVNULL,
                       check=True)
    times = []
    for _ in range(3):
        start = time.monotonic()
        run([a.engine, "run", "-m", a.ours, "-p", "a", "-n", "1",
             "--threads", str(a.threads)])
        times.append(time.monotonic() - start)
    return statistics.median(times)


def report(a, got, memory, bandwidth, info):
    names = list(got)
    band = statistics.median(bandwidth)
    print(f"{info['shape']}, {info['type']}, {info['weights'] / 1e9:.2f} G "
          f"weights, {info['active'] / 1e9:.3f} GB active a token; "
          f"{a.threads} threads, medians of {a.rounds} rounds"
          + (", one busy process beside" if a.busy else "")
          + f"; probe {band:.1f} GB/s ({min(bandwidth):.1f} to "
          f"{max(bandwidth):.1f})\n")
    print("| tokens/s | " + " | ".join(names) + " | "
          + " | ".join(f"to {n}" for n in names[1:]) + " |")
    print("|---|" + "---:|" * (2 * len(names) - 1))
    for test in got[names[0]]:
        value = [statistics.median(got[n][test]) for n in names]
        print(f"| {test} | " + " | ".join(f"{v:.1f}" for v in value) + " | "
              + " | ".join(f"{value[0] / v:.2f}" for v in value[1:]) + " |")
    print()
    for n in names:
        one = statistics.median(got[n]["decode, 1 stream"])
        print(f"* {n}: one stream reads {one * info['active'] / 1e9:.1f} GB/s"
              f" of active bytes, {one * info['active'] / band / 1e7:.0f} % "
              f"of the probe; at most {memory[n] / 1e9:.2f} GB resident")
    if a.ours and a.first:
        size = sum(f.stat().st_size for f in pathlib.Path(a.ours).iterdir())
        print(f"* {names[0]}: {size / 1e9:.2f} GB of files; from start to the "
              f"first token {first_token(a):.2f} s, files in the page cache")


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", default=str(ROOT / "build/moe-engine"))
    p.add_argument("--llama", help="llama.cpp's llama-batched-bench")
    p.add_argument("--ik", help="ik_llama.cpp's llama-batched-bench")
    p.add_argument("--ik-args", default="-rtr", help="more for that one")
    p.add_argument("--gguf", help="model, for the peers")
    p.add_argument("--ours", help="model, for this engine (else --gguf)")
    p.add_argument("--info", help="the line that shapes printed of it")
    p.add_argument("--shape", help="make a model of this shape")
    p.add_argument("--type", default="q4_0")
    p.add_argument("--dir", default=str(BUILD / "model"),
                   help="where to make it (default: build/bench/model)")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--streams", type=int, default=64)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--prompts", default="512,2048,4096",
                   type=lambda s: [int(n) for n in s.split(",") if n])
    p.add_argument("--apart", action="store_true",
                   help="each program's rounds in a row: where the files of "
                   "two do not fit in memory together")
    p.add_argument("--busy", action="store_true",
                   help="one process beside that never sleeps")
    p.add_argument("--first", action="store_true",
                   help="time from start to the first token too")
    a = p.parse_args()

    if a.shape:
        where = pathlib.Path(a.dir)
        where.mkdir(parents=True, exist_ok=True)
        a.gguf, a.info = str(where / "m.gguf"), str(where / "m.info")
        a.ours = str(where / "packed")
        text, _ = run([compiled("shapes", "-lm"), a.shape, a.type, a.gguf])
        pathlib.Path(a.info).write_text(text)
        run([a.engine, "quantize", "-q", "-m", a.gguf, "-o", a.ours])
    if not a.gguf or not a.info:
        p.error("--gguf and --info, or --shape")

    line = pathlib.Path(a.info).read_text().split()
    info = dict(shape=line[0], type=line[1], weights=float(line[2]),
                active=float(line[4]))
    programs = [Ours(a)]
    if a.llama:
        programs.append(Llama("llama.cpp", a.llama, a, ["-fa", "on"]))
    if a.ik:
        programs.append(Llama("ik_llama.cpp", a.ik, a, a.ik_args.split()))

    busy = None
    if a.busy:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        report(a, *measure(a, programs, compiled("probe")), info)
    finally:
        if busy:
            busy.kill()


if __name__ == "__main__":
    main()
