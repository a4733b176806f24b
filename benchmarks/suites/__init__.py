"""What is measured: each module has `groups(context)`, the contests of one suite."""
