import torch

from compressbench.kernels import onednn


def test_onednn_is_seen_at_work_and_standard_output_stays_clean(capfd):
    convolution, image = torch.nn.Conv2d(16, 16, 3), torch.randn(4, 16, 32, 32)
    seen = onednn.implementations(lambda: convolution(image))
    assert bool(seen) == torch.backends.mkldnn.is_available()
    assert all(":" in name for name in seen)
    print("still here")
    assert capfd.readouterr().out == "still here\n"
