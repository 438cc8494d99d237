"""What can go wrong, said once. The command line alone knows exit codes.

A message is one line in lower case that names the file, key or flag, what was found and what was
expected. It never holds a cell of the data, a password or an absolute path of somebody's home.
"""


class CriteriaError(Exception):
    """Something criteria cannot do, told to a person.

    Attributes:
        code: a stable dotted name such as ``study.unknown_key``, for ``--json`` and for tests.
        hint: what to type or change, or an empty string.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if code:
            self.code = code

    @property
    def message(self) -> str:
        return str(self.args[0])


class UsageError(CriteriaError):
    """A flag, definition, data file or model that cannot be used. Nothing was started."""

    code = "usage"


class MachineError(CriteriaError):
    """This machine cannot do it: no such device, too little memory or disk, a missing package."""

    code = "machine"


class StoreError(CriteriaError):
    """The store is unreachable, refuses us, is damaged or has another schema."""

    code = "store"


class WorkError(CriteriaError):
    """The work ran and failed."""

    code = "work"


class Saved(CriteriaError):
    """Stopped from outside with everything saved; the same command goes on."""

    code = "saved"


class TrialFailed(CriteriaError):
    """One trial cannot be finished; the worker goes on with the next.

    Attributes:
        cause: a word from a closed list, see `criteria_cli.study.trial.CAUSES`.
    """

    code = "trial"

    def __init__(self, cause: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=f"trial.{cause}")
        self.cause = cause
