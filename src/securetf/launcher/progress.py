"""Says how far a launch is: lines for people on standard error, and JSON lines for `securetf up`."""

import json
import os
import sys
from typing import Literal

State = Literal["attesting", "waiting", "running"]


class Progress:
    """`descriptor`: where the JSON lines {"state", "detail"} go; None = to nobody. Thread-safe."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def state(self, state: State, detail: str = "") -> None:
        """Note the state, with what is being waited for."""
        if self._descriptor is not None:
            line = json.dumps({"state": state, "detail": detail}) + "\n"
            try:
                os.write(self._descriptor, line.encode())
            except OSError:
                self._descriptor = None  # nobody reads any more: `securetf up` has gone

    def say(self, text: str) -> None:
        """Print one line for people."""
        print(f"securetf: {text}", file=sys.stderr, flush=True)
