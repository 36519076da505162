"""Fetch one file from the Hugging Face hub: a child program, so that a cancelled download ends at once.

    python -m thinkscale.models.hub OWNER/REPO FILE REVISION FOLDER

It prints the file's size and ETag (the sha256, for large files) before it begins. The last line on stderr says what
went wrong.
"""

from __future__ import annotations

import sys
from types import TracebackType


def main() -> None:
    sys.excepthook = _say
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repo, file, revision, folder = sys.argv[1:]
    about = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision))
    sys.stdout.write(f"{about.size} {about.etag}\n")
    sys.stdout.flush()
    hf_hub_download(repo, file, revision=revision, local_dir=folder)


def _say(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    sys.stderr.write(f"{kind.__name__}: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    main()
