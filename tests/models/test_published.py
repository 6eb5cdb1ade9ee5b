"""Networks of papers at full size, without memory."""

import pytest

from compressbench.errors import UserError
from compressbench.models.published import PublishedNetwork

NETWORK = PublishedNetwork("VGG", "vgg", {"depth": 16, "classes": 100}, 32)


def test_it_has_shapes_only_and_takes_further_arguments() -> None:
    assert NETWORK.shape == (3, 32, 32)
    model = NETWORK.build(classes=7, conv_bias=True)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert model.spec.arguments == {"depth": 16, "classes": 7, "conv_bias": True}
    assert NETWORK.build().classifier.out_features == 100, "what one call adds is not kept"


def test_an_argument_that_the_architecture_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match="vgg has no argument width"):
        NETWORK.build(width=2)
