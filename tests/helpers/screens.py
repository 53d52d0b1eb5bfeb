"""The first screen of a report, as a computer and a phone show it.

    python tests/helpers/screens.py outputs/quickstart/report.html tests/reports/screens

writes report-1300.png and report-400.png into that folder; needs Debian's `chromium`.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {1300: 900, 400: 800}  # width -> height, in pixels

# Chromium gives a window no less than 500 pixels: a page in a frame can be narrower.
_FRAME = (
    '<body style="margin:0"><iframe src="{page}" width="{width}" height="{height}" style="border:0"></iframe></body>'
)


def take(page: Path, folder: Path) -> list[Path]:
    """A picture for each width of what chromium shows of a page before anybody scrolls."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "no chromium; apt-get install chromium"
    written = []
    for width, height in SIZES.items():
        written.append((folder / f"report-{width}.png").resolve())
        with tempfile.TemporaryDirectory() as scratch:
            frame = Path(scratch) / "frame.html"
            shown = _FRAME.format(page=page.resolve().as_uri(), width=width, height=height)
            frame.write_text(shown, encoding="utf-8")
            options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={scratch}/profile"]
            options += [
                f"--window-size={width},{height}",
                f"--screenshot={written[-1]}",
                "--allow-file-access-from-files",
            ]
            subprocess.run([chromium, *options, frame.as_uri()], check=True, capture_output=True, timeout=120)
    return written


if __name__ == "__main__":
    for path in take(*map(Path, sys.argv[1:])):
        print(path)
