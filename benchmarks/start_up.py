"""How long the command line takes to answer: ``--help``, and ``inspect`` of ResNet-50 at 224 x 224, imports included.

    python benchmarks/start_up.py [--runs 5]

Writes benchmarks/results/start_up.json. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from morphsearch.files import write_json

COMMANDS = {"--help": ["--help"], "inspect resnet50": ["inspect", "resnet50", "--input", "1,3,224,224"]}
RESULTS = Path(__file__).parent / "results" / "start_up.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    seconds = {}
    for name, words in COMMANDS.items():
        times = []
        for _ in range(args.runs):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "morphsearch.cli", *words], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        seconds[name] = {"median_s": statistics.median(times), "worst_s": max(times)}
        print(f"morphsearch {name}: median {statistics.median(times):.2f} s, worst {max(times):.2f} s of {args.runs}")
    write_json(RESULTS, {"runs": args.runs, "commands": seconds})


if __name__ == "__main__":
    main()
