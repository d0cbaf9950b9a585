"""Every flip of a signed bit and every truncation of the shared vectors' genuine Evidence: all are refused.

    nice -n 19 env PYTHONPATH=src:tests python fuzz/genuine_flips.py [PREFIX…]

Prints a line for each file whose name begins with a PREFIX, and a sum. CI draws some of them
(tests/property/test_genuine_flips.py). Most of the time goes to the pure-Python check of DCAP.
"""

import functools
import sys
import warnings

from support import dcap_oracle, genuine


def main(prefixes: tuple[str, ...]) -> int:
    """Return 1 if anything was accepted, the two checks disagree, or anything but our errors came."""
    warnings.simplefilter("ignore")
    dcap_oracle._verify = functools.lru_cache(64)(dcap_oracle._verify)  # certificates, again and again
    total = genuine.Count()
    files = 0
    for case in genuine.cases():
        if prefixes and not case.name.startswith(prefixes):
            continue
        files += 1
        count = genuine.run(case)
        print(
            f"{case.name}: {count.flips} flips, {count.truncations} truncations, "
            f"oracle asked {count.asked}; accepted {len(count.accepted)}, "
            f"disagreements {len(count.disagreements)}, odd {len(count.odd)}"
            + ("" if case.accepts else " (refused as it is, too)"),
            flush=True,
        )
        for line in (*count.accepted, *count.disagreements, *count.odd)[:20]:
            print(f"  {line}", flush=True)
        total.flips += count.flips
        total.truncations += count.truncations
        total.asked += count.asked
        for name in ("accepted", "disagreements", "odd"):
            getattr(total, name).extend(getattr(count, name))
    bad = len(total.accepted) + len(total.disagreements) + len(total.odd)
    print(
        f"{files} parts: {total.flips} flips, {total.truncations} truncations, oracle asked {total.asked}; "
        f"accepted {len(total.accepted)}, disagreements {len(total.disagreements)}, odd {len(total.odd)}"
    )
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:])))
