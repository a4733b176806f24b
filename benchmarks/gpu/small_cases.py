"""Every operator's small cases, forward and backward, once on the GPU: what compute-sanitizer watches.

Triton's kernels; then, where they are built, those that "auto" passes over (`backend.NOT_AUTOMATIC`) in bfloat16:
evaluation, and training of two stems at once.

    compute-sanitizer --tool memcheck python -m benchmarks.gpu.small_cases
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.harness.choosing import add_choices, apply_choices
from xmae_fast import available, backend
from xmae_fast.ops import conv_stems
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.ops.conv_stem.cases import make_inputs
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.testing import named_tensors

BOTH_STEMS = (((3, 37), (2, 5)), ((2, 300), (5, 70)))  # B, L of each
MOST_CASES = 4  # of each operator: under the sanitizer everything takes a hundred times as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_choices(parser)
    apply_choices(parser.parse_args())
    for op, cases in all_cases().items():
        usable, reason = available()[op]["triton"]
        if not usable:
            print(f"{op}, triton: not run: {reason}", flush=True)
            continue
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
    run_both_stems("cuda")


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


def run_both_stems(impl: str, device: str = "cuda") -> None:
    """Two stems in bfloat16: features and gradients of the weights, with the batch's statistics and the running ones.

    Raises:
        RuntimeError: numbers that are not finite.
    """
    usable, reason = available()["conv_stem"][impl]
    if not usable:
        print(f"conv_stems, {impl}: not run: {reason}", flush=True)
        return
    for sizes in BOTH_STEMS:
        for training in (True, False):
            makers = (Maker(seed, torch.bfloat16, device) for seed in range(len(sizes)))
            made = [
                make_inputs({"B": B, "L": L, "S": 32, "training": training}, make)
                for (B, L), make in zip(sizes, makers, strict=True)
            ]
            xs, params = tuple(one["x"] for one in made), tuple(one["params"] for one in made)
            leaves = [weight.requires_grad_() for stem in params for weight in flatten(stem)[:TRAINED]]
            features = conv_stems(xs, params, training=training, impl=impl)
            gradients = torch.autograd.grad(features, leaves, [torch.ones_like(x) for x in features])
            name = f"conv_stems, {impl}, {sizes}, training={training}"
            if not all(bool(torch.isfinite(x).all()) for x in (*features, *gradients)):
                raise RuntimeError(f"{name}: numbers that are not finite")
            print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
