"""sparsify's decoder is chosen by whether there is a CUDA device, here with stand-ins for both."""

import os
import sys
from types import ModuleType

import pytest

from sparsify_library import EAGER, import_sparsify


def stand_ins(monkeypatch: pytest.MonkeyPatch, has_cuda: bool) -> ModuleType:
    """torch with or without a device, and a sparsify that prints when it is imported."""
    torch, sparsify = ModuleType("torch"), ModuleType("sparsify")
    torch.cuda = ModuleType("cuda")  # type: ignore[attr-defined]
    torch.cuda.is_available = lambda: has_cuda
    sparse_coder = ModuleType("sparsify.sparse_coder")

    def load(name: str) -> ModuleType:
        print("Triton disabled, using eager implementation of sparse decoder.")
        return sparse_coder

    sparsify.__getattr__ = load  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "sparsify", sparsify)
    monkeypatch.setenv(EAGER, "")
    return sparse_coder


@pytest.mark.parametrize(("has_cuda", "expected"), [(False, "1"), (True, "")])
def test_the_eager_decoder_is_chosen_without_a_device(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_cuda: bool,
    expected: str,
) -> None:
    sparse_coder = stand_ins(monkeypatch, has_cuda)
    assert import_sparsify() is sparse_coder
    assert os.environ[EAGER] == expected
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Triton" in printed.err
