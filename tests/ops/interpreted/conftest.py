"""These tests run Triton's kernels in its interpreter, which must be switched on before Triton is imported.

So they have a process of their own: `TRITON_INTERPRET=1 python -m pytest tests/ops/interpreted`, which
tests/ops/test_triton_interpreted.py starts. In any other process they are not collected.
"""

from __future__ import annotations

from xmae_fast.ops._triton import INTERPRETED

if INTERPRETED:
    from tests.ops.interpreted.interpreter import round_products_once, shorten

    shorten()
    round_products_once()

collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]
