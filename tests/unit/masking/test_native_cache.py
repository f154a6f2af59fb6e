"""The compiled kernels come from a file that only this user could have written, or are compiled anew."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gmt.masking import native
from gmt.masking.counting import as_bits, chunk_of
from gmt.masking.select_alone import SLACK
from tests.second_user import as_root, open_to_all, second_user

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")

PLANTED = """
#include <fcntl.h>
__attribute__((constructor)) static void run(void) { open("MARKER", O_CREAT, 0600); }
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, which others may write as a careless user's, below a folder that all can enter."""
    monkeypatch.setenv("GMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_FLAGS", ["-O0", "-shared", "-fPIC", "-DPORTABLE"])  # compiles in a tenth of the time
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    open_to_all(tmp_path)
    before = os.umask(0o002)
    yield tmp_path / "cache" / f"kernels-of-{os.geteuid()}"
    os.umask(before)


def planted(folder: Path, *, with_symbols: bool) -> Path:
    """Compile a library that leaves a marker when it is loaded."""
    source, library = folder / "planted.c", folder / "planted.so"
    symbols = "".join(f"void {name}(void) {{}}\n" for name in native._SIGNATURES) if with_symbols else ""
    source.write_text(PLANTED.replace("MARKER", str(folder / "ran")) + symbols)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def works(library: ctypes.CDLL) -> bool:
    """Whether random_bits is that of kernels.c."""
    out = (ctypes.c_uint32 * 8)()
    library.random_bits(ctypes.addressof(out), 8, 1, 2, 3)
    return len(set(out)) == 8


def test_what_is_compiled_once_is_loaded_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert works(native._loaded())
    (file,) = cache.iterdir()
    assert [each.stat().st_mode & 0o777 for each in (cache, file)] == [0o700, 0o700]  # although the umask is 002
    monkeypatch.setenv("CC", "none")
    monkeypatch.setenv("PATH", "")
    assert works(native._loaded())


@as_root
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_a_library_of_another_user_is_not_loaded(cache: Path, tmp_path: Path, what: str) -> None:
    library = planted(tmp_path, with_symbols=True)
    library.chmod(0o755)
    if what == "file":
        cache.mkdir(mode=0o700)
        cache.chmod(0o777)
    with second_user():
        cache.mkdir(exist_ok=True)
        (cache / "mine.so").write_bytes(library.read_bytes())
        (cache / "mine.so").rename(cache / f"kernels-{native._key()}.so")
        if what == "link":
            cache.rename(cache.with_name("elsewhere"))
            cache.symlink_to(cache.with_name("elsewhere"))
    if what == "file":
        cache.chmod(0o700)
    assert works(native._loaded())
    assert not (tmp_path / "ran").exists()
    ctypes.CDLL(str(library))
    assert (tmp_path / "ran").exists()  # as that one would have done


@pytest.mark.parametrize(("level", "mode"), [("file", 0o720), ("folder", 0o702)])
def test_a_library_that_others_could_have_written_is_not_loaded(
    cache: Path, tmp_path: Path, level: str, mode: int
) -> None:
    cache.mkdir(mode=0o700)
    file = cache / f"kernels-{native._key()}.so"
    file.write_bytes(planted(tmp_path, with_symbols=True).read_bytes())
    (file if level == "file" else cache).chmod(mode)
    assert works(native._loaded())
    assert not (tmp_path / "ran").exists()


def test_a_library_that_lacks_a_function_is_compiled_anew(cache: Path, tmp_path: Path) -> None:
    cache.mkdir(mode=0o700)
    file = cache / f"kernels-{native._key()}.so"
    file.write_bytes(planted(tmp_path, with_symbols=False).read_bytes())
    file.chmod(0o700)
    assert works(native._loaded())


def test_a_library_that_was_cut_is_compiled_anew(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    file = cache / f"kernels-{native._key()}.so"
    file.write_bytes(b"\x7fELF")
    file.chmod(0o700)
    assert works(native._loaded())


@pytest.mark.parametrize("variant", ["PORTABLE", "WITHOUT_AVX512"])
def test_code_for_other_processors_splits_alike(variant: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = native.library()
    monkeypatch.setattr(native, "_FLAGS", ["-O0", "-shared", "-fPIC", f"-D{variant}"])
    other = native._loaded()
    torch.manual_seed(0)
    x = torch.randn(1003).round(decimals=1)
    low, high = torch.tensor([0.5, 0.9]).view(torch.int32).tolist()
    for bad in (1.0, float("inf"), -float("nan")):
        x[1000], found = bad, []
        for library in (here, other):
            out = torch.empty(len(x) + SLACK, dtype=torch.int32)
            bracket = native.Bracket(chunk_of(0, x, out), low, high, count_zeros=1)
            library.split_chunks(ctypes.byref(bracket), 1, ctypes.byref(ctypes.c_int64(0)))
            found.append(([bracket.below, bracket.zeros, bracket.nonfinite], out[: bracket.data.found].tolist()))
        assert found[0] == found[1]
        inside = x[(x.abs() >= 0.5) & (x.abs() <= 0.9)]
        assert found[0] == (
            [int((x.abs() < 0.5).sum()), int((x == 0).sum()), bad != 1],
            as_bits(inside).tolist(),
        )
