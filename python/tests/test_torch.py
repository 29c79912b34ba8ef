"""torch's own tensors, where torch is installed; what of it is used is tested without it as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tributary import errors
from tributary._core.body import Tensors
from tributary._core.layout import Layout

torch: Any = pytest.importorskip("torch")

NUMBERS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def sent(value: Any, encoding: str | None, cast: bool = False) -> Any:
    """A tensor as it arrives."""
    file = np.frombuffer(b"".join(Tensors.of({"w": value}, None, encoding, cast).pieces()), np.uint8)
    return Layout.parse(file.data).views(file)["w"].astype("f4")


def tensors() -> dict[str, Any]:
    bf16 = torch.tensor(NUMBERS, dtype=torch.bfloat16)
    return {
        "bf16": bf16,
        "requires grad": bf16.clone().requires_grad_(),
        "parameter": torch.nn.Parameter(torch.tensor(NUMBERS)),
        "transposed": bf16.t(),
        "strided": bf16[:, ::2],
        "expanded": bf16[:1].expand(4, 3),
        "single": torch.tensor(3.0, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3, dtype=torch.bfloat16),
        "negated when read": torch.complex(torch.ones(3), torch.arange(3.0)).conj().imag,
        "f16": bf16.half(),
    }


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("encoding", [None, "f32", "f16", "bf16"])
@pytest.mark.parametrize("case", tensors())
def test_values_arrive(case: str, encoding: str | None, cast: bool) -> None:
    tensor = tensors()[case]
    arrived = sent(tensor, encoding, cast)
    np.testing.assert_array_equal(arrived, tensor.detach().resolve_neg().float().numpy())


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), r"got a tensor of layout torch.sparse_coo; .to_dense\(\) makes it one"),
        (torch.empty(3, device="meta"), "got a meta tensor, which has none"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), r".dequantize\(\) makes it one"),
        (torch.ones(3, dtype=torch.complex64), "only numbers can be averaged"),
    ],
    ids=["sparse", "meta", "quantized", "complex"],
)
def test_what_has_no_elements_to_send_is_named(tensor: Any, words: str) -> None:
    with pytest.raises(errors.LayoutMismatch, match=f"tensor 'w': .*{words}"):
        sent(tensor, "f32", cast=True)
