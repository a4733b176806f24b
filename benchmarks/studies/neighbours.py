"""One embedding in float32 while another runtime's threads are in the same process, by how long ago that one computed.

    python -m benchmarks.studies.neighbours [--rounds 100] [--pauses 0,1,5,20]

Each round lets the neighbour embed one segment, waits, and times our call. Between calls a runtime's threads spin for a
while, in case there is more to do, and compete for the processors meanwhile; or they sleep, and then ours sleep too and
have to be woken. `alone` waits as long without a neighbour."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness.context import Context
from benchmarks.harness.machine import measure_machine
from benchmarks.harness.timing import spread
from benchmarks.models.contestants import our_model, plain_model
from benchmarks.models.runtimes import ONNX_RUNTIME, OPENVINO, export_embed, not_installed, openvino

Work = Callable[[Tensor], object]


def onnx_runtime(onnx: bytes, *, spins: bool) -> Work:
    """A session with torch's number of threads, which spin between calls as ONNX Runtime lets them, or never."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda ppg: session.run(None, {name: ppg.numpy()})


def neighbours(onnx: bytes, product: Tensor) -> dict[str, Callable[[], Work]]:
    """What makes each neighbour that is installed; `product` [n, n] keeps torch's own threads busy."""
    made: dict[str, Callable[[], Work]] = {"alone": lambda: lambda ppg: None}
    made["torch, a matrix product"] = lambda: lambda ppg: product @ product
    if not not_installed(ONNX_RUNTIME):
        made["ONNX Runtime, spinning (its default)"] = lambda: onnx_runtime(onnx, spins=True)
        made["ONNX Runtime, not spinning"] = lambda: onnx_runtime(onnx, spins=False)
    if not not_installed(OPENVINO):
        made["OpenVINO"] = lambda: openvino(onnx)
    return made


def milliseconds(neighbour: Work, ours: Work, ppg: Tensor, pause_s: float, rounds: int) -> list[float]:
    """Times of our calls, each `pause_s` after a call of the neighbour."""
    times = []
    for number in range(rounds + 5):
        neighbour(ppg)
        time.sleep(pause_s)
        began = time.perf_counter()
        ours(ppg)
        if number >= 5:
            times.append(1e3 * (time.perf_counter() - began))
    return times


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--pauses", default="0,1,5,20", help="milliseconds between both calls, with commas")
    chosen = parser.parse_args(arguments)
    context = Context(torch.device("cpu"))
    pauses = [float(pause) for pause in chosen.pauses.split(",")]
    model, ppg = our_model(context, "auto").freeze(), context.batches(1)[0][0]
    onnx = export_embed(plain_model(context), 1, context.cfg.seq_len)
    print(measure_machine(torch.device("cpu"), 0.5).line())
    print("our call, ms: median [10 %, 90 %]")
    for name, make in neighbours(onnx, torch.randn(512, 512)).items():
        neighbour = make()
        for pause in pauses:
            found = spread(milliseconds(neighbour, model.embed, ppg, pause / 1e3, chosen.rounds))
            print(f"  {name:38} {pause:4g} ms before: {found.median:6.2f} [{found.low:.2f}, {found.high:.2f}]")


if __name__ == "__main__":
    main()
