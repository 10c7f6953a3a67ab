"""Who may decide: a file of names and salted hashes.

python -m screening.accounts accounts.json anna
"""

import argparse
import getpass
import hashlib
import json
import os
import re
import secrets
import threading
import time
from pathlib import Path


ACCOUNTS_VARIABLE = "SCREENING_ACCOUNTS"
# Scrypt's cost: 32 MiB and about 0.1 seconds for each attempt.
COST = {"n": 1 << 15, "r": 8, "p": 1, "maxmem": 1 << 26}
NAME = re.compile(r"[A-Za-z0-9._-]{1,60}")
MIN_PASSWORD = 12
MAX_PASSWORD = 200
# Failed attempts on a name before it is closed, and for how long: short, so that nobody keeps an officer out for long.
MAX_FAILURES = 5
LOCKED_SECONDS = 60.0


def hash_password(password: str, salt: bytes | None = None) -> str:
    """A salted hash of a password, as `salt$hash` in hexadecimal."""
    salt = salt or secrets.token_bytes(16)
    return f"{salt.hex()}${hashlib.scrypt(password.encode(), salt=salt, dklen=32, **COST).hex()}"


class Accounts:
    """
    Checks names and passwords. The file is read at every attempt: a name removed from it is out at once.

    Args:
        path (path, *optional*): A JSON file of hashes by name; the one that `SCREENING_ACCOUNTS` names. Without one
            nobody can log in.
    """

    def __init__(self, path: str | Path | None = None):
        given = path or os.environ.get(ACCOUNTS_VARIABLE, "")
        self.path = Path(given) if given else None
        self.failures: dict[str, list[float]] = {}
        self.lock = threading.Lock()

    def read(self) -> dict[str, str]:
        """Hashes by name."""
        return json.loads(self.path.read_text()) if self.path and self.path.is_file() else {}

    def check(self, name: str, password: str) -> bool:
        """
        Whether the password is the name's.

        Raises:
            ValueError: after too many failures on this name.
        """
        if not NAME.fullmatch(name) or len(password) > MAX_PASSWORD:
            return False
        with self.lock:
            recent = [at for at in self.failures.get(name, ()) if time.monotonic() - at < LOCKED_SECONDS]
            if len(recent) >= MAX_FAILURES:
                raise ValueError(f"Too many failed attempts: try again in {LOCKED_SECONDS:.0f} seconds.")
            # Counted before it is checked: parallel attempts count too.
            self.failures = {**self.failures, name: [*recent, time.monotonic()]}
        # A name that is not there costs as much time as a wrong password.
        stored = self.read().get(name, hash_password(secrets.token_hex(), b"0" * 16))
        right = secrets.compare_digest(hash_password(password, bytes.fromhex(stored.split("$")[0])), stored)
        if right:
            with self.lock:
                self.failures.pop(name, None)
        return right

    def add(self, name: str, password: str) -> None:
        """
        Adds an account, or gives it another password.

        Raises:
            ValueError: for a name or a password that is not possible.
        """
        if self.path is None:
            raise ValueError(f"Set {ACCOUNTS_VARIABLE} to the file of the accounts.")
        if not NAME.fullmatch(name):
            raise ValueError(f"A name has 1 to 60 letters, digits, dots, hyphens and underscores, got {name[:60]!r}.")
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise ValueError(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters, got {len(password)}.")
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps({**self.read(), name: hash_password(password)}, indent=1) + "\n")
        partial.replace(self.path)


def main() -> None:
    """Adds an account from the terminal."""
    parser = argparse.ArgumentParser(description="Add an officer's account, or change its password.")
    parser.add_argument("file", type=Path, help=f"the file of the accounts, for {ACCOUNTS_VARIABLE}")
    parser.add_argument("name", help="the officer's name")
    given = parser.parse_args()
    try:
        Accounts(given.file).add(given.name, getpass.getpass("Password: "))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
