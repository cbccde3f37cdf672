"""A disk that fills up during training: one sentence, nothing half-written, and the run goes on once there is room."""

import subprocess

import pytest

from meshgan.errors import MeshganError
from meshgan.model.face_model import FaceModel
from meshgan.training.checkpoint import RunFolder, read_checkpoint
from meshgan.training.loop import train


@pytest.fixture
def disk(tmp_path):
    """A file system of 512 KiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("free", [4, 40, 90])
def test_a_run_goes_on_when_there_is_room_again(disk, free, tiny_run, tiny_faces, tiny_recipe):
    """Room for little, for a checkpoint, for checkpoints and not for the grid of samples."""
    (disk / "filler").write_bytes(bytes((512 - free) * 1024))
    with pytest.raises(MeshganError, match="the disk is full; free some space"):
        train(tiny_recipe, tiny_faces, disk / "run")
    for path in RunFolder(disk / "run").checkpoints():
        read_checkpoint(path)
    assert not list((disk / "run").glob(".*"))
    (disk / "filler").unlink()
    model = train(tiny_recipe, tiny_faces, disk / "run", resume=True)
    assert (FaceModel.load(model).sample(3) == FaceModel.load(tiny_run).sample(3)).all()
    assert [line["step"] for line in RunFolder(disk / "run").lines()] == list(range(5, 41, 5))
