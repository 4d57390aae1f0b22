"""The load of `understudy bench soak`, in a process of its own: paced streams to one edge.

Reads commands on standard input, `resize N` and `measure SECONDS`, and answers each with a line of
JSON. While it measures all streams are driven; between two measurements none is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from understudy.bench.edge_streams import Generator, Target


def serve(url: str, name: str, commands: Iterable[str]) -> None:
    generator = Generator(Target(name, url, start=True, cpu_s=dict))
    for line in commands:
        word, number = line.split()
        if word == "resize":
            generator.resize(int(number))
            print(json.dumps({"streams": int(number)}), flush=True)
        else:
            print(json.dumps(asdict(generator.measure(0.0, float(number)))), flush=True)
    generator.resize(0)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.stdin)
