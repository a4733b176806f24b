from tests.data.fuzz import run


def test_damaged_files_give_errors_or_counted_skips():
    """300 cases of `python -m tests.data.fuzz`, with another seed than its own."""
    outcomes = run(300, seed=1)
    assert outcomes.total() == 300
    assert outcomes["shard: ValueError"] > 20
    assert outcomes["shard: counted skips"] > 5
    assert outcomes["index: all segments"] > 20
