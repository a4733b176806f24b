"""Names of operators and implementations, and how a caller chooses among them.

A choice is "auto", the name of an implementation, or one of these followed by choices for single operators:
`impl="auto, conv_stem=cuda"`.
"""

from __future__ import annotations

IMPLS = ("reference", "cpu", "triton", "cuda")
OPS = (
    "random_masking",
    "token_gather",
    "conv_stem",
    "patch_embed",
    "lag_attention",
    "feed_forward",
    "waveform_loss",
)
MODEL_OPS = tuple(op for op in OPS if op != "random_masking")  # those that a forward runs


def check_choice(impl: object) -> None:
    """Raise ValueError unless `impl` is a choice."""
    first, *others = impl.split(",") if isinstance(impl, str) else [""]
    pairs = [[word.strip() for word in other.split("=")] for other in others]
    names = [first.strip(), *(pair[-1] for pair in pairs)]
    of_ops = all(len(pair) == 2 and pair[0] in OPS for pair in pairs)
    if not of_ops or any(name != "auto" and name not in IMPLS for name in names):
        known = ", ".join(map(repr, IMPLS))
        raise ValueError(
            f"impl: expected 'auto' or one of {known} (for single operators then 'auto, conv_stem=cuda'), got {impl!r}"
        )


def choice_of(impl: str, op: str) -> str:
    """The choice for an operator, "auto" or the name of an implementation; the last one counts.

    impl: a choice, which is not checked.
    """
    if "," not in impl:
        return impl
    first, *others = impl.split(",")
    for other in reversed(others):
        name, _, choice = other.partition("=")
        if name.strip() == op:
            return choice.strip()
    return first.strip()
