"""One process of a mesh: `python -m mesh.bootstrap agent MODULE:ATTRIBUTE | ledger | gateway`."""

import argparse
import sys

from mesh.bootstrap.service import load_agent, run_agent, run_gateway, run_ledger
from mesh.errors import MeshError


def main() -> None:
    """Run what the command line names; ends the process with its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mesh.bootstrap", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    agent = kinds.add_parser("agent")
    agent.add_argument("reference", metavar="MODULE:ATTRIBUTE")
    agent.add_argument("--name", default="", help="what the manifest calls it")
    kinds.add_parser("ledger")
    kinds.add_parser("gateway")
    arguments = parser.parse_args()
    if arguments.kind == "ledger":
        run_ledger()
    if arguments.kind == "gateway":
        run_gateway()
    try:
        declared = load_agent(arguments.reference, arguments.name)
    except MeshError as e:
        print(e, file=sys.stderr)  # noqa: T201 - before there is a log
        sys.exit(2)
    run_agent(declared)


if __name__ == "__main__":
    main()
