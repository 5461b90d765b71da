"""Puts together what tools/gpu_check.sh found: gpu.json and gpu.md.

    gpu_report.py 1|simt PARTS.tsv WORK OUT
"""

import json
import os
import subprocess
import sys


def said(*command):
    """The first line that a command prints, or nothing."""
    try:
        r = subprocess.run(command, capture_output=True, text=True,
                           timeout=20)
        return r.stdout.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return ""


def load(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError):
        return None


def text(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except OSError:
        return ""


def markdown(found):
    lines = ["# GPU check", ""]

    if found["emulated"]:
        lines += ["**Run on a processor, without a GPU: no figure below means "
                  "anything.**", ""]

    lines += [f"{found['gpu'] or 'no GPU'}; {found['nvcc']}; "
              f"commit {found['commit']}, {found['date']}", "",
              "| part | result | seconds |", "|---|---|---:|"]
    lines += [f"| {p['name']} | {p['result']} | {p['seconds']} |"
              for p in found["parts"]]

    if found["ceilings"]:
        lines += ["", "Ceilings by PyTorch: "
                  + ", ".join(f"{k} {v:.0f}" if isinstance(v, float)
                              else f"{k} {v}"
                              for k, v in found["ceilings"].items())]

    if found["kernels"]:
        lines += ["", "| operation | rows | ms | GB/s | of the copy | "
                  "TFLOP/s |", "|---|---:|---:|---:|---:|---:|"]
        lines += [f"| {k['what']} | {k['rows']} | {k['ms']:.4f} | "
                  f"{k['gb_s']:.1f} | {100 * k['of_copy']:.1f} % | "
                  f"{k['tflop_s']:.2f} |" for k in found["kernels"]]

    if found["engine"]:
        lines += ["", "    " + found["engine"].strip().replace("\n",
                                                              "\n    ")]

    return "\n".join(lines) + "\n"


def main():
    cuda, parts, work, out = sys.argv[1:]

    found = {
        "emulated": cuda == "simt",
        "gpu": said("nvidia-smi", "--format=csv,noheader",
                    "--query-gpu=name,driver_version,memory.total"),
        "nvcc": said("sh", "-c", "$(tools/cuda/nvcc.sh) --version | "
                     "sed -n 's/.*release/CUDA release/p'"),
        "commit": said("git", "rev-parse", "--short", "HEAD") or "unknown",
        "date": said("date", "-u", "+%F %H:%M UTC"),
        "parts": [],
        "ceilings": load(os.path.join(work, "ceilings.json")),
        "kernels": load(os.path.join(work, "bench.json")),
        "engine": text(os.path.join(work, "engine.txt")),
    }

    for line in text(parts).splitlines():
        name, result, code, seconds = line.split("\t")
        found["parts"].append({"name": name, "result": result,
                               "exit": int(code), "seconds": float(seconds)})

    with open(os.path.join(out, "gpu.json"), "w", encoding="utf-8") as f:
        json.dump(found, f, indent=1)
        f.write("\n")

    with open(os.path.join(out, "gpu.md"), "w", encoding="utf-8") as f:
        f.write(markdown(found))


if __name__ == "__main__":
    main()
