#!/usr/bin/env python3
"""Mixed load through nginx: requests arrive at random, as a Poisson process,
with prompts and answers of mixed length, and are streamed.

    mixed.py -m DIR --rate 0.5 --seconds 60

Starts an engine with DIR and nginx with the module from build/, both on this
machine, and prints percentiles of the time to the first token and between
tokens as the client sees them.  Lengths are log-uniform; prompts are random
tokens, so that no two share a prefix.  One seed gives one load.
"""

import argparse
import asyncio
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DIR = ROOT / "build/bench/mixed"

CONF = """\
load_module {root}/build/ngx_http_moe_module.so;
{user}
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            moe_pass unix:{dir}/engine.sock;
            moe_first_token_timeout 10m;
        }}
    }}
}}
"""


def between(r, low, high):
    return round(math.exp(r.uniform(math.log(low), math.log(high))))


def load_of(a):
    """Arrival, prompt and tokens of every request."""
    r, at, out = random.Random(a.seed), 0.0, []
    while True:
        at += r.expovariate(a.rate)
        if at >= a.seconds:
            return out
        n = between(r, *a.prompt)
        out.append((at, [r.randrange(300, a.vocab) for _ in range(n)],
                    between(r, *a.tokens)))


async def request(a, start, arrival, prompt, tokens):
    """Status, and when each event with text came, after the arrival."""
    await asyncio.sleep(max(0, start + arrival - time.monotonic()))
    begin = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
    body = json.dumps({"prompt": prompt, "max_tokens": tokens,
                       "stream": True, "seed": 1}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                 b"Connection: close\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status = int((await reader.readline()).split()[1])
    times = []
    while line := await reader.readline():
        if line.startswith(b"data: {") and b'"text"' in line:
            times.append(time.monotonic() - begin)
    writer.close()
    return status, times, time.monotonic() - begin


def wait_ready(engine, log):
    for _ in range(3000):
        if " ready model=" in log.read_text():
            return
        if engine.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"the engine did not start:\n{log.read_text()[-2000:]}")


async def drive(a):
    load = load_of(a)
    start = time.monotonic()
    got = await asyncio.gather(*(request(a, start, *l) for l in load))
    return load, got, time.monotonic() - start


def percentiles(name, values, unit=1.0):
    v = sorted(values)
    cells = [f"{v[min(len(v) - 1, int(p * len(v)))] * unit:.2f}"
             for p in (0.5, 0.9, 0.99)]
    print(f"| {name} | {' | '.join(cells)} | {v[-1] * unit:.2f} |")


def report(a, load, got, took):
    good = [(l, t) for l, (s, t, _) in zip(load, got) if s == 200 and t]
    if not good:
        sys.exit(f"no request was answered: {[s for s, _, _ in got]}")
    # a delta may carry more than one token, so what is counted is asked for
    out = sum(l[2] for l, _ in good)
    gaps = [y - x for _, t in good for x, y in zip(t, t[1:])]
    print(f"{len(load)} requests at {a.rate} a second for {a.seconds} s, "
          f"prompts {a.prompt[0]} to {a.prompt[1]} tokens "
          f"({sum(len(l[1]) for l in load)} in all), answers {a.tokens[0]} "
          f"to {a.tokens[1]} ({out} in all); {len(good)} answered whole, "
          f"all done after {took:.0f} s\n")
    print("| seconds | median | 90 % | 99 % | longest |\n"
          "|---|---:|---:|---:|---:|")
    percentiles("to the first token", [t[0] for _, t in good])
    percentiles("between tokens", gaps)
    percentiles("whole request", [e for s, t, e in got if s == 200 and t])


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--engine", default=str(ROOT / "build/moe-engine"))
    p.add_argument("--rate", type=float, default=0.5)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--prompt", type=int, nargs=2, default=(32, 1024))
    p.add_argument("--tokens", type=int, nargs=2, default=(8, 128))
    p.add_argument("--vocab", type=int, default=2000,
                   help="ids are drawn from 300 to this")
    p.add_argument("--kv-memory", default="2g")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--port", type=int, default=18470)
    a = p.parse_args()

    DIR.mkdir(parents=True, exist_ok=True)
    (DIR / "nginx.conf").write_text(CONF.format(
        root=ROOT, dir=DIR, port=a.port,
        user="" if os.getuid() else "user root;"))
    log = DIR / "engine.log"
    with log.open("w") as f:
        engine = subprocess.Popen(
            [a.engine, "serve", "-m", a.model, "--threads", str(a.threads),
             "--kv-memory", a.kv_memory, "--kv-format", "bf16", "--socket",
             str(DIR / "engine.sock")], stdout=f, stderr=subprocess.STDOUT)
    nginx = None
    try:
        wait_ready(engine, log)
        nginx = subprocess.Popen(
            [os.environ.get("NGINX", "nginx"), "-p", f"{DIR}/", "-c",
             f"{DIR}/nginx.conf", "-e", f"{DIR}/error.log"])
        time.sleep(1)
        report(a, *asyncio.run(drive(a)))
    finally:
        for child in (nginx, engine):
            if child:
                child.send_signal(signal.SIGTERM)
                child.wait(60)


if __name__ == "__main__":
    main()
