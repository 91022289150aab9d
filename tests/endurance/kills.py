"""Kill train, convert, predict and simulate at random instants, and fill their disk at random levels.

    python -m tests.endurance.kills [--kills 100] [--full 10] [--minutes 20 | --hours H] [--only NAME]...

Each command is killed (SIGKILL) at a random instant of the time that it takes unbroken, and given again,
until it ends by itself. Then what it wrote is compared with an unbroken one's bit by bit, and the folder is
searched for leftovers. Every other output replaces an older one. Then the disk is full at a random level: a
small file system is mounted for that or, where that may not be, the size of files is limited. The command
has to say so in one message, and to go on when there is room. Prints a table; exits with 1 if anything was
lost.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tests.endurance.works import REFUSED, Work, differences, in_child, kill, leftovers, wait, works

NAMES = ("convert", "predict", "simulate", "train")
"""The quick ones first: what they leave of their share of the time is for the slow ones."""

_CLONE_NEWNS = 0x00020000
_PRIVATE = "none", "/", None, 0x4000 | 0x40000
"""Arguments of mount(2) after which what is mounted here is seen by this process and its children alone."""


@dataclass
class Count:
    """What came of one command.

    Attributes
    ----------
    kills, too_late
        Of how many attempts: killed, and over before the kill.
    full
        How often the disk was full.
    finished
        Outputs that were compared with the unbroken one.
    lost
        What was wrong.
    """

    command: str
    kills: int = 0
    too_late: int = 0
    full: int = 0
    finished: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)


class Breaker:
    """Breaks a command off, again and again, and counts what came of it.

    Parameters
    ----------
    folder
        An empty folder to work in.
    until
        Of `time.monotonic`: no attempt begins after.
    """

    def __init__(self, work: Work, folder: Path, seed: int, until: float) -> None:
        self.work, self.folder, self.until = work, folder, until
        self.chance = random.Random(f"{seed} {work.name}")
        self.count = Count(work.name)
        self.out = folder / "place" / f"out{work.ending}"
        self.unbroken = folder / f"unbroken{work.ending}"
        folder.mkdir(parents=True, exist_ok=True)
        # Twice: the first may compile what the others find compiled, and both must end with the same bits.
        for out in (folder / f"first{work.ending}", self.unbroken):
            started = time.monotonic()
            status = wait(in_child(partial(work.go_on, out, False)))
            self.seconds = time.monotonic() - started
            if status != 0:
                raise RuntimeError(f"{work.name}: the unbroken one ended with {status}")
        self.expected = work.content(folder / f"first{work.ending}")
        wrong = differences(self.unbroken, work, self.expected)
        if wrong:
            raise RuntimeError(f"{work.name}: two unbroken ones differ in {', '.join(wrong[:3])}")

    def kill(self, kills: int) -> None:
        """Kill so often, or until the time is over."""
        while self.count.kills < kills and time.monotonic() < self.until:
            replaces = self._prepare()
            while True:
                child = in_child(partial(self.work.go_on, self.out, replaces))
                if self.count.kills < kills and time.monotonic() < self.until:
                    time.sleep(self.chance.uniform(0, self.seconds))
                    status = kill(child)
                else:
                    status = wait(child)
                if status != -signal.SIGKILL:
                    self.count.too_late += status == 0 and self.count.kills < kills
                    break
                self.count.kills += 1
            self._compare(status)

    def fill(self, times: int, place: Path | None) -> None:
        """Fill the disk so often at a random level, or until the time is over.

        Parameters
        ----------
        place
            The root of a file system of its own that may be filled; None to limit the size of files instead.
        """
        if place is not None:
            self.out = place / self.work.name / f"out{self.work.ending}"
        most = max(path.stat().st_size for path in self.unbroken.rglob("*")) if place is None else 0
        needed = most if place is None else self._needed(place)
        for _ in range(times):
            if time.monotonic() > self.until:
                return
            self._prepare(replaces=False)
            room = int(self.chance.uniform(0, 1.05) * needed)
            if place is None:
                status = wait(in_child(partial(self._limited, max(room, 64))))
            else:
                ballast = place / "ballast"
                free = shutil.disk_usage(place).free
                with ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, max(free - room, 1))
                status = wait(in_child(lambda: self.work.go_on(self.out, False)))
                ballast.unlink()
            if status == REFUSED:
                self.count.full += 1
                status = wait(in_child(lambda: self.work.go_on(self.out, False)))
            self._compare(status)

    def _needed(self, place: Path) -> int:
        """The most bytes of the file system that the unbroken command takes at any time."""
        self._prepare(replaces=False)
        before = most = shutil.disk_usage(place).used
        child = in_child(lambda: self.work.go_on(self.out, False))
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            most = max(most, shutil.disk_usage(place).used)
            time.sleep(0.002)
        self._compare(wait(child))
        return most - before

    def _limited(self, most_bytes: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        self.work.go_on(self.out, False)

    def _prepare(self, replaces: bool | None = None) -> bool:
        """An empty place, or one with an older output that is replaced."""
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.parent.mkdir(parents=True)
        if replaces is None:
            replaces = self.work.name != "train" and self.chance.random() < 0.5
        if replaces:
            shutil.copytree(self.unbroken, self.out)
            for chunk in self.out.glob("xi/c/*/*/*/*"):
                chunk.unlink()  # so that the older one is not taken for the result
        return replaces

    def _compare(self, status: int) -> None:
        self.count.finished += 1
        wrong = differences(self.out, self.work, self.expected)
        # Killed behind its last step, the command before was done, and the next one finds its output there.
        if status != 0 and not (status == REFUSED and not wrong):
            self.count.lost.append(f"it ended with {status}")
            return
        if wrong:
            self.count.lost.append(f"not as unbroken: {', '.join(wrong[:3])}")
        left = leftovers(self.out)
        if left:
            self.count.lost.append(f"left over: {', '.join(left[:3])}")


def small_disk(folder: Path, megabytes: int = 32) -> Path | None:
    """Mount a small file system that only this process and its children see; None where it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or libc.unshare(_CLONE_NEWNS) != 0:
        return None
    source, target, kind, flags = _PRIVATE
    libc.mount(source.encode(), target.encode(), kind, flags, None)
    place = folder / "disk"
    place.mkdir()
    options = f"size={megabytes}m".encode()
    if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, options) != 0:
        return None
    return place


def table(counts: list[Count], disk: str) -> str:
    """The counts in Markdown."""
    lines = [
        "| command | kills | finished before the kill | full disk | compared | lost |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{c.command}` | {c.kills} | {c.too_late} | {c.full} | {c.finished} | {len(c.lost)} |"
        for c in counts
    ]
    return "\n".join([*lines, "", f"Full disk: {disk}."])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.kills")
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--full", type=int, default=10, help="times that the disk of each command is filled")
    parser.add_argument("--minutes", type=float, default=20.0, help="at most, for all commands together")
    parser.add_argument("--hours", type=float, help="in place of --minutes; kills go on until then")
    parser.add_argument("--only", action="append", choices=NAMES, help="this command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="ONNX file of n_igm and n_ion; exported here if not given")
    parser.add_argument("--json", type=Path, help="write the counts there too")
    given = parser.parse_args(arguments)
    names = given.only or list(NAMES)
    kills = given.kills if given.hours is None else sys.maxsize
    end = time.monotonic() + (given.minutes * 60 if given.hours is None else given.hours * 3600)
    counts = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = given.model or _exported(folder)
        place = small_disk(folder)
        disk = "the size of files was limited instead" if place is None else "a file system of 32 MiB"
        try:
            listed = works(folder, model, names)
            for number, work in enumerate(listed):
                started = time.monotonic()
                share = (end - started) / (len(listed) - number)
                breaker = Breaker(work, folder / work.name, given.seed, started + 0.85 * share)
                breaker.kill(kills)
                breaker.until = started + share
                breaker.fill(given.full, place)
                breaker.count.seconds = round(time.monotonic() - started, 1)
                counts.append(breaker.count)
                print(json.dumps(asdict(breaker.count)), file=sys.stderr, flush=True)  # noqa: T201
        finally:
            if place is not None:  # otherwise the folder cannot be removed, and the error is not seen
                subprocess.run(["umount", str(place)], check=False)
    print(table(counts, disk))  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps([asdict(count) for count in counts], indent=1))
    return int(any(count.lost for count in counts))


def _exported(folder: Path) -> Path:
    """A small network of every kind of layer, exported by another process: this one must be able to fork."""
    code = (
        "import sys; from tests.conftest import build_toy_network; from reion_exports import export\n"
        "export(*build_toy_network(), sys.argv[1])"
    )
    path = folder / "toy.onnx"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
