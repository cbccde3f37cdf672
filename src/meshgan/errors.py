"""The errors, and the warning, that a person is meant to read: what is wrong, where, and what to do."""

import json


class MeshganError(Exception):
    """Something failed for a reason outside the program: a damaged file, a full disk, a collapsed training."""

    exit_status = 1


class DiskError(MeshganError):
    """Something could not be written: a full disk, a folder that may not be changed."""


class UsageError(MeshganError):
    """The command or call itself is wrong: a missing folder, an unknown recipe key, meshes of another template."""

    exit_status = 2


def missing_extra(what: str, extra: str, otherwise: str = "") -> UsageError:
    """The error where `what` needs packages that come with an extra: the command that installs them beside this copy
    of meshgan, wherever it came from."""
    return UsageError(f"{what} needs the extra `{extra}`; install it with: {install_command(extra)}{otherwise}.")


def install_command(extra: str) -> str:
    """How pip adds an extra to this copy: by name if that is where it came from, else from its folder or address."""
    from importlib import metadata  # these two take longer than all else of a verb's start
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    name, options = f"'meshgan[{extra}]'", ""
    try:
        origin = json.loads(metadata.distribution("meshgan").read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            name, options = f"'{url2pathname(urlsplit(origin['url']).path)}[{extra}]'", "-e "
        elif url := origin.get("url"):
            kind = origin.get("vcs_info", {}).get("vcs")
            name = f"'meshgan[{extra}] @ {kind + '+' if kind else ''}{url}'"
    except (metadata.PackageNotFoundError, OSError, ValueError, AttributeError, KeyError):
        pass  # nobody wrote down where it came from
    return f"pip install {options}{name}"


class MeshganWarning(UserWarning):
    """Something was left out or taken otherwise than a person may expect; the sentence says what."""
