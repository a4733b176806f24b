"""Every operator's small cases, forward and backward, once on the GPU: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python -m benchmarks.gpu_small_cases
"""

from __future__ import annotations

import torch

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


if __name__ == "__main__":
    main()
