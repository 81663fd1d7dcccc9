"""A rank for tests of the launcher: `FOLDER [BEHAVIOR]`; listens, says so in FOLDER, and leaves after a notice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from maws_composer.resilience.notice import listen, notice
from maws_composer.resilience.orphans import end_with_launcher

listen()
end_with_launcher()


def main(folder: Path, behavior: str = "") -> None:
    rank = os.environ["RANK"]
    (folder / f"listens-{rank}").touch()
    if behavior == "leaves a child":
        child = subprocess.Popen(["sleep", "600"])
        (folder / f"child-{rank}").write_text(str(child.pid))
        return
    while (heard := notice()) is None or behavior == "never leaves":
        time.sleep(0.05)
    (folder / f"heard-{rank}").write_text(heard.reason)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
