"""torchvision imports beside the installed torch, whatever its build."""

from compressbench.torchvision_compat import torchvision


def test_the_python_part_of_torchvision_works():
    assert torchvision.models.resnet18(weights=None).fc.out_features == 1_000
