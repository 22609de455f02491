"""A model hub at a pinned commit: which files it has and where they are. Bytes come through the one downloader."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.errors import UpstreamError


@dataclass(frozen=True)
class HubFile:
    """One file of a repository. ``sha256`` is empty for small files, whose hash the hub does not tell."""

    path: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Access:
    """How to ask the hub: the token goes to its host and nowhere else."""

    host: str
    token: str

    def headers(self, url: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token and urlsplit(url).netloc == self.host else {}


def access() -> Access:
    """The hub of the environment (HF_ENDPOINT) and the token from the hub client's usual places."""
    from huggingface_hub import constants, get_token  # noqa: PLC0415  slow to import

    return Access(urlsplit(constants.ENDPOINT).netloc, get_token() or "")


def files(repository: str, revision: str) -> list[HubFile]:
    """All files of a repository at a commit.

    Raises:
        UpstreamError: no such repository or commit, access refused, or no answer.
    """
    from huggingface_hub import HfApi, errors, hf_hub_url  # noqa: PLC0415  slow to import

    where = f"{repository}@{revision[:12]}"
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=60)
    except errors.GatedRepoError as error:
        raise UpstreamError(
            "the hub wants its terms accepted first",
            where=where,
            remedy="Accept them on the model's page and set HF_TOKEN to that account's token.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UpstreamError(
            "the hub has no such commit", where=where, remedy="Correct revision in the definition; it is a full commit."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UpstreamError(
            "the hub has no such repository, or it is private",
            where=where,
            remedy="Correct hub in the definition, or set HF_TOKEN.",
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise UpstreamError(
            f"the hub does not answer: {str(error).splitlines()[0]}",
            where=where,
            remedy="Check the connection and HF_ENDPOINT, and run it again.",
        ) from error
    if info.sha != revision:
        raise UpstreamError(
            f"the hub answers for commit {info.sha}", where=where, remedy="Correct revision in the definition."
        )
    found = []
    for sibling in info.siblings or []:
        lfs = sibling.lfs
        url = hf_hub_url(repository, sibling.rfilename, revision=revision)
        found.append(HubFile(sibling.rfilename, url, int(sibling.size or 0), str(lfs.sha256) if lfs else ""))
    return found
