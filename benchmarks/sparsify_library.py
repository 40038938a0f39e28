"""EleutherAI's sparsify, made to run on this machine."""

import contextlib
import os
import sys
from types import ModuleType

# sparsify reads this when it is imported. It then decodes with PyTorch's embedding_bag instead of
# its triton kernels.
EAGER = "SPARSIFY_DISABLE_TRITON"


def import_sparsify() -> ModuleType:
    """The module sparsify.sparse_coder.

    sparsify takes its triton kernels wherever triton is installed, and torch brings triton even
    without a CUDA device, on which alone those kernels run. Without one its eager decoder is
    chosen. sparsify says so on standard output, which belongs to the results, so the message goes
    to standard error."""
    import torch

    if not torch.cuda.is_available():
        os.environ[EAGER] = "1"
    with contextlib.redirect_stdout(sys.stderr):
        from sparsify import sparse_coder
    module: ModuleType = sparse_coder
    return module
