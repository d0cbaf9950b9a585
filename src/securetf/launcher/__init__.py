"""The launcher: `LaunchPlan` in, exit status of the unmodified program out; all is undone in reverse order.

Only `cli.run` chooses the real stages; here they are Protocols (`stages`).
"""
