"""Every operator's small cases, forward and backward, once on the GPU: what compute-sanitizer watches.

Triton's kernels; then, where they are built, those that "auto" passes over (`backend.NOT_AUTOMATIC`), in evaluation and
bfloat16.

    compute-sanitizer --tool memcheck python -m benchmarks.gpu_small_cases
"""

from __future__ import annotations

import torch

from xmae_fast import available, backend
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.testing import named_tensors

MOST_CASES = 4  # of each operator: under the sanitizer everything takes a hundred times as long


def main() -> None:
    for op, cases in all_cases().items():
        for case in cases.tests[:MOST_CASES]:
            inputs = cases.make_inputs(case.sizes, Maker(0, device="cuda"))
            leaves = [
                x.requires_grad_()
                for name, x in named_tensors(inputs)
                if cases.differentiable and x.is_floating_point() and name.rsplit(".", 1)[-1] not in cases.no_grad
            ]
            outputs = cases.call(inputs, "triton")
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            total = [out.float().sum() for out in outputs if out.requires_grad]
            if total:
                torch.autograd.grad(sum(total), leaves, allow_unused=True)
            torch.cuda.synchronize()
        print(f"{op}: done", flush=True)
    for op, impl in backend.NOT_AUTOMATIC:
        run_evaluation(op, impl)


@torch.no_grad()
def run_evaluation(op: str, impl: str, device: str = "cuda") -> None:
    """An operator's cases of evaluation in bfloat16, as far as `impl` serves them; says what it does not serve."""
    usable, reason = available()[op][impl]
    if not usable:
        print(f"{op}, {impl}: not run: {reason}", flush=True)
        return
    cases = all_cases()[op]
    for case in cases.tests:
        if case.sizes.get("training", False):
            continue
        try:
            cases.call(cases.make_inputs(case.sizes, Maker(0, torch.bfloat16, device)), impl)
            said = "done"
        except backend.BackendError as error:
            said = f"refused: {error}"
        if device == "cuda":
            torch.cuda.synchronize()
        print(f"{op}, {impl}, {case.name}: {said}", flush=True)


if __name__ == "__main__":
    main()
