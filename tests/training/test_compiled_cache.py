"""The folders in which compiled code is kept: the user's own, and nobody else's to write or to replace."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from torch._inductor import codecache
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from tecogan_dist.base.errors import UserError
from tecogan_dist.training.compiled_cache import CACHE, TRITON_CACHE, keep_private_cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set is as before afterwards."""
    monkeypatch.setenv(CACHE, str(tmp_path / "compiled"))
    monkeypatch.setenv(TRITON_CACHE, "")
    for folder in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):
        monkeypatch.setattr(codecache, folder, getattr(codecache, folder))


def test_what_is_compiled_is_kept_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = keep_private_cache()
    assert folder == tmp_path / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ[TRITON_CACHE] == str(folder / "triton")
    assert Path(codecache._HEADER_DIR).is_relative_to(folder)
    assert Path(codecache._HEADER_LOCK_DIR).is_relative_to(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for chosen, tritons in (("", ""), (default_cache_dir(), f"{default_cache_dir()}/triton/0")):
        monkeypatch.setenv(CACHE, chosen)
        monkeypatch.setenv(TRITON_CACHE, tritons)
        folder = keep_private_cache()
        assert folder == tmp_path / f"tecogan_compiled_{os.getuid()}"
        assert os.environ[CACHE] == str(folder)
        assert os.environ[TRITON_CACHE] == str(folder / "triton")
    own = tmp_path / "new" / "torchinductor_mine"
    monkeypatch.setenv(CACHE, str(own))
    assert keep_private_cache() == own
    monkeypatch.setenv(CACHE, "/proc/compiled")
    with pytest.raises(UserError, match=r"/proc/compiled cannot be made: name a folder of your own in TORCHINDUCTOR_"):
        keep_private_cache()
    monkeypatch.setenv(CACHE, "")
    folder.chmod(0o777)
    with pytest.raises(UserError, match=r"can be written by others.*TORCHINDUCTOR_CACHE_DIR"):
        keep_private_cache()
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "compiled")
    with pytest.raises(UserError, match="can be written by others"):
        keep_private_cache()


@pytest.mark.parametrize("variable", [CACHE, TRITON_CACHE])
def test_a_folder_that_others_could_replace_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = tmp_path / "above"
    folder = above / "between" / "mine"
    folder.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(folder.parent)
    for chosen in (folder, link / "mine"):
        for mode, is_refused in ((0o777, True), (0o775, True), (0o1777, False), (0o755, False)):
            above.chmod(mode)
            monkeypatch.setenv(variable, str(chosen))
            refused = pytest.raises(UserError, match=rf"{above} can be written by others, who .* own in {variable}")
            with refused if is_refused else contextlib.nullcontext():
                keep_private_cache()
                assert os.environ[variable] == str(folder)
    folder.chmod(0o770)
    with pytest.raises(UserError, match=rf"{folder} can be written by others, and .* own in {variable}"):
        keep_private_cache()
