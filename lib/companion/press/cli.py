"""The command line: `companion <command>`; every make target calls one of these commands."""

import argparse
import importlib
import sys

from companion.errors import CompanionError

COMMANDS = {
    "run": ("companion.press.run", "run chapters that have no up-to-date result"),
    "build": ("companion.press.build", "run what is missing and print the book"),
    "check": ("companion.press.check", "hold the chapters against their committed references"),
    "reference": ("companion.press.reference", "renew the committed references and say what moved"),
    "status": ("companion.press.status", "say which runs are fresh, stale, failed or missing"),
    "lint": ("companion.press.lint", "check notebooks and library for unseeded randomness and house rules"),
    "lock": ("companion.press.lock", "resolve dependencies anew into requirements.lock and environment.yml"),
    "data": ("companion.data.cli", "list, fetch, verify and locate data sets"),
    "zoo": ("companion.multimodal.cli", "train, list and verify the base models that ship with the repository"),
}


def main(arguments: list[str] | None = None) -> int:
    """Parse `arguments` (default: sys.argv) and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="companion", description="Trust, but Rerun: run, check and print the book.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in arguments if word in COMMANDS), None)
    for name, (module, summary) in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:  # import only what is asked for: start-up time is part of every command
            importlib.import_module(module).configure(command)
    options = parser.parse_args(arguments)
    try:
        return options.function(options) or 0
    except CompanionError as error:
        print(f"companion {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"companion {options.command}: interrupted; finished runs are kept, call again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
