"""`inferalign VERB`: finds the verb, reads its flags and its TOML file, and turns what goes wrong into one message.

Exit codes: 0 done, 1 an `InferalignError`, a full disk or a stdout that nobody reads any more (`| head`), 2 a flag or
key that cannot be used, 130 stopped by Ctrl-C.
A verb is a `"module:function"` string that is imported when it is called, so `--help` loads none of them.
Each verb takes one frozen dataclass: its fields are the flags, the TOML keys and the help.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, MissingArgumentError, Parameter, UnknownOptionError
from cyclopts.config import Dict

import inferalign
from inferalign.core.config import read_toml
from inferalign.core.errors import InferalignError

VERBS = {
    "agency": ("inferalign.cli.agency:app", "Human agency: build, run and report the benchmark of six dimensions."),
    "calibrate": ("inferalign.cli.calibrate:calibrate", "Draw and score K reference rollouts a prompt: the anchors."),
    "compare": (
        "inferalign.cli.compare:compare",
        "Trained models under decoding procedures: win rates against KL, with intervals.",
    ),
    "demo": ("inferalign.cli.demo:demo", "Vanilla, best-of-4 and RAIN side by side on the sandbox, with ground truth."),
    "doctor": ("inferalign.cli.doctor:doctor", "Check versions, arithmetic and TRL's gradient before a training."),
    "generate": ("inferalign.cli.generate:generate", "Answer a file of prompts under a procedure, resumably."),
    "plan": ("inferalign.cli.plan:plan", "KL, win rates, anchors and cost of a recipe, without a model."),
    "sandbox": ("inferalign.cli.sandbox:app", "Sample, grade, audit and re-make the embedded world."),
    "train": ("inferalign.cli.train:train", "Train a model for the procedure that it will be decoded with."),
}


def build_app() -> App:
    """The command tree. No verb is imported here."""
    app = App(
        name="inferalign",
        help="Align a language model for the way it is decoded, and while it is decoded.",
        version=inferalign.__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # `main` says what is kept
        config=(_whole_numbers,),
    )
    app.meta.suppress_keyboard_interrupt = False
    for name, (target, summary) in VERBS.items():
        app.command(target, name=name, help=summary)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: Path | None = None
    ) -> object:
        """Run a verb.

        Parameters
        ----------
        config
            A TOML file whose keys are the verb's flags; a flag on the command line wins.
        """
        if config is not None:
            file = Dict(_flat(read_toml(config), config), source=str(config), use_commands_as_keys=False)
            app.config = (file, *app.config)
        return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")

    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    app = build_app()
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        if sys.stdout is not None:  # None where it was closed before we began (`>&-`)
            sys.stdout.flush()
    except CycloptsError as error:
        return fail(usage_message(error), 2)
    except InferalignError as error:
        return fail(str(error), 1)
    except KeyboardInterrupt as stop:
        kept = f"{stop.args[0]} finished and kept" if stop.args else "what was finished is kept"
        then = stop.args[1] if stop.args[1:] else "to go on"
        return fail(f"stopped; {kept}, repeat the same command {then}", 130)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _let_go_of_stdout()
            return 1  # without a word, as rich ends where a table meets it
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _let_go_of_stdout()
        where = error.filename or "stdout, or a file"
        return fail(f"cannot write {where}: {error.strerror}; free some space; what was finished is kept", 1)
    return 0


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that its reader has closed."""
    stdout = select.poll()
    stdout.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


def _let_go_of_stdout() -> None:
    """Drop what it holds and cannot write: Python would try again at its end, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _whole_numbers(_app: App, _verbs: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse 2.6 where a whole number is asked for: the parser would round it."""
    for argument in arguments:
        for token in argument.tokens if argument.resolved_hint is int else ():
            if re.fullmatch(r"[+-]?\d*\.\d+", token.value) and not float(token.value).is_integer():
                where = "" if token.source == "cli" else f"{token.source}: "
                raise CycloptsError(msg=f"{where}{argument.name} takes a whole number, not {token.value}.")


def _flat(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings, unless a verb is among their keys: the parser would pass over everything under it in silence."""
    if verbs := [key for key in settings if key in VERBS]:
        raise CycloptsError(
            msg=f"{path}: unknown key `{verbs[0]}`; a file holds the flags of one verb: write its keys "
            f"(`seed = 1`) at the top, not under [{verbs[0]}]."
        )
    return settings


def usage_message(error: CycloptsError) -> str:
    """The parser's message, with the flag that is missing, and a did-you-mean for TOML keys as for flags."""
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.keyword is None:
        verb, flag = " ".join(error.command_chain or ()), error.argument.name
        config = ", or its key in a --config file" if flag.startswith("--") else ""
        return f"`{verb}` needs {flag}: give it{config}. See `inferalign {verb} --help`."
    if not isinstance(error, UnknownOptionError) or error.token.source == "cli":
        return f"{error} See `inferalign --help`, or `inferalign VERB --help`."
    given = str(error.token.keyword or error.token.value).strip("[]").replace("][", ".").replace("_", "-")
    names = (name for argument in error.argument_collection for name in argument.names)
    known = [name.removeprefix("--") for name in names if name.startswith("--") and not name.startswith("--no-")]
    close = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"keys are: {', '.join(sorted(set(known)))}"
    return f"{error.token.source}: unknown key `{given}`; {hint}"


def fail(message: str, code: int) -> int:
    """Names in a message may be other people's: a terminal is to show their controls, not to obey them."""
    shown = "".join(c if c == "\n" or c.isprintable() else f"\\u{ord(c):04x}" for c in message)
    print(f"inferalign: {shown}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
