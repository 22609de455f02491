"""One bit in the middle of a file changes in place, as on a disk that rots."""

import sys
from pathlib import Path

path = Path(sys.argv[1])
path.chmod(0o644)
with path.open("r+b") as file:
    middle = path.stat().st_size // 2
    file.seek(middle)
    byte = file.read(1)[0]
    file.seek(middle)
    file.write(bytes([byte ^ 0x10]))
path.chmod(0o444)
