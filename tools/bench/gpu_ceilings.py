"""What a GPU reaches at most, by PyTorch: copies and matrix products of random
numbers, 8192 x 8192 x 8192.  Prints one JSON object; called by
tools/gpu_check.sh."""

import json
import statistics

import torch


def seconds(run, times=9, calls=10):
    """The median of some means; three calls are not counted."""
    for _ in range(3):
        run()

    found = []
    for _ in range(times):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1000 / calls)

    return statistics.median(found)


def main():
    found = {"torch": torch.__version__,
             "device": torch.cuda.get_device_name(0)}

    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    found["copy_gb_s"] = 2 * (1 << 30) / seconds(lambda: b.copy_(a)) / 1e9

    n = 8192
    x = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    found["bf16_tflop_s"] = 2 * n ** 3 / seconds(lambda: x @ y) / 1e12

    try:
        one = torch.ones((), device="cuda")
        p = x.to(torch.float8_e4m3fn)
        q = y.to(torch.float8_e4m3fn).t()
        t = seconds(lambda: torch._scaled_mm(p, q, one, one,
                                             out_dtype=torch.bfloat16))
        found["fp8_tflop_s"] = 2 * n ** 3 / t / 1e12
    except (AttributeError, RuntimeError, TypeError, ValueError) as e:
        found["fp8_error"] = str(e).splitlines()[0]

    print(json.dumps(found))


if __name__ == "__main__":
    main()
