"""Entry point of `semgen-platform`: registers the commands and turns errors into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path
from types import FrameType

import typer

from semgen_platform.errors import Interrupted, Preempted, SemgenError

app = typer.Typer(
    name="semgen-platform",
    help="From a folder of CT scans to a pretrained anatomical backbone. "
    "Start with: semgen-platform phantom ./ct --patients 8",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

COMMAND_MODULES: tuple[str, ...] = (
    "phantom",
    "lake",
    "ingest",
    "train_encoder",
    "embed",
    "build_index",
    "discover",
    "pretrain",
    "publish",
    "evaluate",
    "serve",
    "encoders",
    "indexes",
    "discoveries",
    "runs",
    "models",
)
"""Modules of semgen_cli, each with `register(app)`, in the order of --help. They import nothing heavy at their top."""

for _module in COMMAND_MODULES:
    import_module(f"semgen_cli.{_module}").register(app)


@app.callback()
def _root() -> None:
    """Options belong to the commands."""


def main() -> None:
    """Run the command line and end the process with the exit code of DESIGN.md section 5."""
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run(sys.argv[1:]))


_terminated = threading.Event()


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: by what is no Exception, since libraries log those and go on."""
    _terminated.set()
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Exit code of one command; results on stdout, everything else on stderr."""
    try:
        code = app(arguments, standalone_mode=False)
        if code == Interrupted.exit_code:  # typer's, which makes a number of KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except SemgenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        kind = Preempted if _terminated.is_set() else Interrupted
        name = "SIGTERM" if kind is Preempted else "interrupted"
        print(f"{name}; run the same command again to go on", file=sys.stderr)
        return kind.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(
            error, "exit_code"
        ):  # typer's own usage errors, whose class moves between releases
            error.show()
            return int(error.exit_code)
        log = Path(tempfile.gettempdir()) / f"semgen-platform-bug-{os.getpid()}.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        print(f"error: a bug of ours ({type(error).__name__}); the traceback is in {log}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
