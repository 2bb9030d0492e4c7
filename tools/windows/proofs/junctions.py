"""A directory junction, which NTFS has since Windows 2000."""

import _winapi
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as directory:
    target = Path(directory, "target")
    target.mkdir()
    (target / "file").touch()
    link = Path(directory, "link")
    _winapi.CreateJunction(str(target), str(link))
    if not (link / "file").exists():
        raise SystemExit("the junction leads nowhere")
    link.unlink()
