"""`impl=`: one implementation for all operators, or others for single operators, as in "auto, conv_stem=cuda"."""

from __future__ import annotations

from xmae_fast.backend.registry import IMPLS, operator_names


def check_choice(impl: object) -> None:
    """Raise ValueError unless `impl` is a choice."""
    first, *others = impl.split(",") if isinstance(impl, str) else [""]
    pairs = [[word.strip() for word in other.split("=")] for other in others]
    names = [first.strip(), *(pair[-1] for pair in pairs)]
    known_ops = operator_names() if pairs else ()
    of_ops = all(len(pair) == 2 and pair[0] in known_ops for pair in pairs)
    if not of_ops or any(name != "auto" and name not in IMPLS for name in names):
        known = ", ".join(map(repr, IMPLS))
        raise ValueError(
            f"impl: expected 'auto' or one of {known} (for single operators then 'auto, conv_stem=cuda'), got {impl!r}"
        )


def choice_of(impl: str, op: str) -> str:
    """The choice for one operator.

    Args:
        impl: a choice, which is not checked. Where it names an operator twice, the last one counts.
        op: the name of the operator.

    Returns:
        "auto" or the name of an implementation.
    """
    if "," not in impl:
        return impl
    first, *others = impl.split(",")
    for other in reversed(others):
        name, _, choice = other.partition("=")
        if name.strip() == op:
            return choice.strip()
    return first.strip()
